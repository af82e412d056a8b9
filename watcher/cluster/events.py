"""Kubernetes Events: what happened to a run or a mirror, for `kubectl describe` and `kubectl events`.

Events are best effort. No one waits for them, they are never retried, and the status says everything that they say.
Warnings are sent first: a thousand runs that begin must not hide the one that cannot. Normal Events wait, for a while,
as long as runs wait to be started.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import socket
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Literal

from dbtrun.api import API_VERSION, GROUP, KIND, DbtRun
from dbtrun.api.mirrors import MIRROR_KIND, DbtRunMirror
from dbtrun.kube.errors import KubeError
from dbtrun.kube.paths import api_path
from dbtrun.kube.turns import Urgency
from dbtrun.text import cut_bytes
from dbtrun.values import digest
from watcher.cluster.access import ClusterAccess

logger = logging.getLogger(__name__)

CONTROLLER: Final = f"{GROUP}/watcher"
MAX_NOTE: Final = 1024
"""Bytes of a note that the API server accepts."""
QUEUE: Final = 2_000
"""Events that wait to be sent; more are dropped, Warnings at twice as many."""
PATIENT: Final = QUEUE * 3 // 4
"""So many Events wait for starts at most."""
PATIENCE_SECONDS: Final = 30.0
"""How long an Event waits for starts at most."""
PAUSE_SECONDS: Final = 0.5
REPEAT_SECONDS: Final = 60.0
"""The same reason and note for the same object is sent once in this time."""

EventType = Literal["Normal", "Warning"]


class Events:
    """`emit` never waits and never fails; `run` sends what it was given until it is cancelled."""

    def __init__(self, access: ClusterAccess, instance: str = "", crowded: Callable[[], bool] = lambda: False) -> None:
        """Makes one.

        Args:
            instance: names this watcher among others; by default the host's name.
            crowded: whether runs wait to be started.
        """
        self._access = access
        self._crowded = crowded
        self._normal: deque[float] = deque()
        """When each Event was emitted that is queued and no Warning."""
        self._flushing = False
        # Documented: reportingInstance has at most 128 characters.
        self._instance = (instance or socket.gethostname())[:128]
        # The number keeps Events of one kind in their order, and the bodies from being compared, which raises.
        self._queue: asyncio.PriorityQueue[tuple[bool, int, str, dict[str, Any]]] = asyncio.PriorityQueue()
        self._numbers = itertools.count()
        self._said: dict[tuple[str, str, str], float] = {}

    def emit(self, about: DbtRun | DbtRunMirror, kind: EventType, reason: str, message: str, action: str) -> None:
        """Queues an Event, unless the same one was just sent or too many wait. `action` is what was done."""
        note, normal, waiting = cut_bytes(message, MAX_NOTE), kind == "Normal", self._queue.qsize()
        said = about.uid, reason, note
        now = asyncio.get_running_loop().time()
        # In the order of the instants, as nothing is put twice: the oldest are first.
        while self._said and now - next(iter(self._said.values())) >= REPEAT_SECONDS:
            del self._said[next(iter(self._said))]
        if said in self._said:
            return
        if waiting >= (QUEUE if normal else 2 * QUEUE):
            logger.warning("An Event was dropped, %d are waiting: %s %s", waiting, about, reason)
            return
        self._said[said] = now
        body = self._body(about, kind, reason, note, action)
        if normal:
            self._normal.append(now)
        self._queue.put_nowait((normal, next(self._numbers), about.metadata.namespace, body))

    async def run(self) -> None:
        """Sends one after another: Warnings first, else in their order."""
        while True:
            while (  # noqa: ASYNC110 - one event does not stand for all of this
                self._crowded()
                and not self._flushing
                # What is queued beside the Normal ones are Warnings, which do not wait.
                and 0 < self._queue.qsize() == len(self._normal) <= PATIENT
                and asyncio.get_running_loop().time() < self._normal[0] + PATIENCE_SECONDS
            ):
                await asyncio.sleep(PAUSE_SECONDS)
            normal, _, namespace, body = await self._queue.get()
            if normal:
                self._normal.popleft()
            try:
                path = api_path("apis/events.k8s.io/v1", namespace, "events")
                await self._access.request("POST", path, body=body, urgency=Urgency.EVENT)
            except KubeError as error:
                logger.warning("An Event was not accepted: %s: %s", body["reason"], error)
            finally:
                self._queue.task_done()

    async def flush(self, seconds: float = 2.0) -> None:
        """Waits until all are sent, or for so many seconds at most: for a clean stop, while `run` still runs."""
        self._flushing = True
        try:
            async with asyncio.timeout(seconds):
                await self._queue.join()
        except TimeoutError:
            logger.warning("%d Events were not sent before the end.", self._queue.qsize())

    def _body(
        self, about: DbtRun | DbtRunMirror, kind: EventType, reason: str, note: str, action: str
    ) -> dict[str, Any]:
        # Unique; the same up to the last part for one object and reason.
        subject = digest(f"{about.uid}/{reason}")
        name = f"{about.metadata.name[:200].rstrip('.-')}.{subject}.{secrets.token_hex(5)}"
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": about.metadata.namespace},
            # A MicroTime of Kubernetes: six digits, and Z for UTC.
            "eventTime": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "reportingController": CONTROLLER,
            "reportingInstance": self._instance,
            "type": kind,
            "reason": reason,
            "action": action,
            "note": note,
            "regarding": {
                "apiVersion": API_VERSION,
                "kind": KIND if isinstance(about, DbtRun) else MIRROR_KIND,
                "namespace": about.metadata.namespace,
                "name": about.metadata.name,
                "uid": about.uid,
                "resourceVersion": about.metadata.resource_version,
            },
        }
