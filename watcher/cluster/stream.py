"""Keeps the mirror true: lists, follows kopf's watch, and does not trust it.

kopf says nothing when the CRD is missing, forgets deletions that happened while its watch was down, and has stopped
watching without ending. So we list first, prune by a list now and then, and start it anew when it owes us something.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from watcher.api import GROUP, PLURAL, DbtRun
from watcher.cluster.access import ClusterAccess
from watcher.cluster.echoes import Echoes
from watcher.cluster.errors import ApiTrouble, Forbidden, NotServed
from watcher.cluster.kopf_thread import SILENCE_SECONDS, KopfThread
from watcher.cluster.listing import check_discovery, list_objects, list_versions
from watcher.cluster.mirror import Mirror

logger = logging.getLogger(__name__)

QUICK_END: Final = 60.0
"""Seconds: a watch that ended sooner did not work."""


@dataclass(frozen=True)
class StreamSettings:
    """Times in seconds."""

    page_size: int = 500
    """Objects per page of a list: a page is read in well under a second and is a few MB at most."""
    prune_every: float = 300.0
    """A deletion that the watch missed is seen after this time; 10,000 objects cost 20 small requests."""
    stall_after: float = 30.0
    """A version that exists and did not come by on the watch for this long shows that the watch is dead."""
    silent_after: float = SILENCE_SECONDS
    """A watch that brings nothing at all for this long, not even a bookmark, is opened anew by kopf."""
    retry_first: float = 1.0
    """Wait after the first failure; doubled up to `retry_most`, with jitter."""
    retry_most: float = 30.0
    """Longest wait: an installed CRD or a mended RBAC is noticed within it."""
    give_up_after: int = 8
    """Watches in a row that did not work, while lists did, before `run` raises: some two minutes."""


class StreamBroken(Exception):
    """The watch ended again and again although the API server answers."""


class Stream:
    """The mirror's source. It calls `wake(uid)` in our loop when something new is known of a uid, or it is gone."""

    def __init__(
        self,
        access: ClusterAccess,
        mirror: Mirror,
        wake: Callable[[str], None],
        *,
        namespaces: Collection[str] = (),
        settings: StreamSettings | None = None,
        on_restart: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        """Follows these namespaces, or all when none is named. A namespace need not exist yet."""
        self._access = access
        self._mirror = mirror
        mirror.on_record = self._expect
        self._wake = wake
        self._namespaces = tuple(namespaces)
        self._scopes: tuple[str | None, ...] = self._namespaces or (None,)
        self._settings = settings or StreamSettings()
        self._on_restart = on_restart
        self._echoes = Echoes()
        self._prune_at = float("inf")
        self._turned_at: float | None = None
        self.synced = asyncio.Event()
        """Set once the first listing is complete; never cleared."""
        self.problem: str | None = None
        """Why the mirror may be out of date at the moment, as a sentence; None when it is not."""

    def silent(self) -> float:
        """Seconds since this gave a sign of life; an API server that is away is no reason for silence."""
        return 0.0 if self._turned_at is None else self._now() - self._turned_at

    async def run(self) -> None:
        """Follows until it is cancelled. Whatever the API server explains is told and waited out.

        Raises:
            StreamBroken: the watch does not work although lists do; its cause is what kopf said.
        """
        quick_ends = 0
        while True:
            await self._list_until_it_works()
            began = self._now()
            reason, error = await self._follow()
            quick_ends = quick_ends + 1 if self._now() - began < QUICK_END else 0
            self._tell(reason)
            if quick_ends >= self._settings.give_up_after:
                raise StreamBroken(f"{reason} This happened {quick_ends} times in a row.") from error
            self._on_restart(reason)
            await self._pause(quick_ends)

    async def _list_until_it_works(self) -> None:
        failures = 0
        while True:
            self._turn()
            try:
                await check_discovery(self._access)
                for scope in self._scopes:
                    await self._list(scope)
            except ApiTrouble as error:
                failures += 1
                self._tell(_sentence(error, self._namespaces))
                await self._pause(failures)
            else:
                self._recovered()
                self.synced.set()
                return

    async def _list(self, scope: str | None) -> None:
        known = self._mirror.uids(scope)
        listed = set()
        async for body in list_objects(self._access, scope, self._settings.page_size):
            self._turn()
            listed.add(body["metadata"]["uid"])
            self._take(None, body)
        self._forget_missing(known, listed)

    async def _follow(self) -> tuple[str, BaseException | None]:
        """Until the watch ends or shows itself dead: why."""
        self._echoes.begin(((run.uid, run.metadata.resource_version) for run in self._mirror), self._now())
        async with self._kopf() as kopf_thread:
            doubt = asyncio.create_task(self._doubt())
            either: set[asyncio.Future[Any]] = {kopf_thread.ended, doubt}
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                if doubt.done():
                    return doubt.result(), None
                error = kopf_thread.ended.exception()
                return f"The watch ended: {_words(error)}.", error
            finally:
                doubt.cancel()

    def _kopf(self) -> KopfThread:
        silence = self._settings.silent_after
        return KopfThread(self._access.kopf_login, self._namespaces, self._deliver, silence=silence)

    async def _doubt(self) -> str:
        """Returns when there is proof that the watch is dead."""
        pace = min(self._settings.stall_after, self._settings.prune_every) / 4
        self._prune_at = self._now() + pace  # the first doubt comes soon: kopf may have found nothing to watch
        while True:
            self._turn()
            await asyncio.sleep(pace)
            if overdue := self._echoes.overdue(self._now(), self._settings.stall_after):
                return f"The watch is dead: it did not bring a known version of {self._name(overdue)}."
            if self._now() >= self._prune_at:
                self._prune_at = self._now() + self._prune_wait()
                await self._prune()

    async def _prune(self) -> None:
        try:
            for scope in self._scopes:
                known = self._mirror.uids(scope)
                listed = await list_versions(self._access, scope, self._settings.page_size)
                self._forget_missing(known, listed)
                for uid, resource_version in listed.items():
                    if not self._mirror.dead(uid):
                        self._echoes.expect(uid, resource_version, self._now())
        except ApiTrouble as error:
            logger.info("The mirror could not be checked against a list: %s", error)

    def _expect(self, run: DbtRun) -> None:
        self._echoes.expect(run.uid, run.metadata.resource_version, self._now())

    def _deliver(self, event_type: str | None, body: Mapping[str, Any]) -> None:
        metadata = body["metadata"]
        if event_type == "DELETED":
            self._echoes.forget(metadata["uid"])
        else:
            if event_type is None and self._echoes.knows(metadata["uid"]):
                self._prune_at = self._now()  # kopf lists again, so its watch was down: it may have missed deletions
            self._echoes.deliver(metadata["uid"], metadata["resourceVersion"], self._now())
        self._take(event_type, body)

    def _take(self, event_type: str | None, body: Mapping[str, Any]) -> None:
        if (uid := self._mirror.apply(event_type, body)) is not None:
            self._wake(uid)

    def _forget_missing(self, known: Collection[str], listed: Collection[str]) -> None:
        for uid in self._mirror.prune(known, listed):
            self._echoes.forget(uid)
            self._wake(uid)

    def _turn(self) -> None:
        self._turned_at = self._now()

    def _tell(self, problem: str) -> None:
        if problem != self.problem:
            logger.warning("%s", problem)
        self.problem = problem

    def _recovered(self) -> None:
        if self.problem is not None:
            logger.info("DbtRuns can be listed again.")
        self.problem = None

    async def _pause(self, failures: int) -> None:
        most = min(self._settings.retry_first * 2 ** max(failures - 1, 0), self._settings.retry_most)
        await asyncio.sleep(most * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    def _prune_wait(self) -> float:
        return self._settings.prune_every * random.uniform(0.9, 1.1)  # noqa: S311 - jitter

    def _name(self, uid: str) -> str:
        return str(self._mirror.get(uid) or uid)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def _words(error: BaseException | None) -> str:
    """kopf's errors carry the whole answer behind the server's sentence."""
    said = error.args[0] if error and error.args else error
    return str(said) if said else type(error).__name__ if error else "kopf stopped by itself"


def _sentence(error: ApiTrouble, namespaces: Collection[str]) -> str:
    match error:
        case NotServed():
            return (
                f"The CRD {PLURAL}.{GROUP} is not installed: install the chart with crds.enabled=true, or apply"
                f" deploy/crd/{GROUP}_{PLURAL}.yaml; the watcher goes on by itself."
            )
        case Forbidden():
            where = f"in the namespaces {', '.join(namespaces)}" if namespaces else "in all namespaces"
            return f"The watcher needs the verbs list and watch on {PLURAL}.{GROUP} {where}: {error}."
    return f"DbtRuns cannot be listed: {error}"
