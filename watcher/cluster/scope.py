"""One namespace: listed, watched and retried by itself, whatever becomes of the others.

kopf says nothing when the CRD is missing, forgets deletions that happened while its watch was down, and has stopped
watching without ending. So the watch is opened first, then we list, prune by a list now and then, and open the watch
again when it owes us something.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from dbtrun.api import GROUP, PLURAL, DbtRun
from dbtrun.kube.errors import Forbidden, KubeError, NotInstalled
from dbtrun.kube.retry import jittered
from dbtrun.values import backoff
from watcher.cluster.access import ClusterAccess
from watcher.cluster.echoes import Echoes
from watcher.cluster.kopf_thread import SILENCE_SECONDS, Kopf, Watching
from watcher.cluster.listing import UNFINISHED, check_discovery, check_list, list_objects, list_versions
from watcher.cluster.mirror import Mirror, Unreadable, version

logger = logging.getLogger(__name__)

QUICK_END: Final = 60.0
"""Seconds: a watch that ended sooner did not work."""
SURE_SECONDS: Final = 8.0
"""After this a watch that may not be opened has ended: kopf asks a few times before it believes a refusal."""
FIRST_SECONDS: Final = 10.0
"""For the list of what is not finished. The list of everything comes in pages that each take little time."""
FORBIDDEN: Final = 403


@dataclass(frozen=True)
class StreamSettings:
    """Times in seconds."""

    page_size: int = 500
    """Most objects per page of a list; a page of large objects has fewer."""
    prune_every: float = 300.0
    """A deletion that the watch missed is seen after this time; 10,000 objects cost 20 small requests."""
    stall_after: float = 30.0
    """A version that exists and did not come by on the watch for this long shows that the watch is dead."""
    silent_after: float = SILENCE_SECONDS
    """A watch that brings nothing at all for this long, not even a bookmark, is opened again by kopf."""
    open_within: float = 10.0
    """A watch that is not open by then is not waited for: what exists is listed all the same."""
    retry_first: float = 1.0
    """Wait after the first failure; doubled up to `retry_most`, with jitter."""
    retry_most: float = 30.0
    """Longest wait: an installed CRD, a mended RBAC or a new namespace is noticed within it."""
    give_up_after: int = 8
    """Watches in a row that did not work, while lists did, before the scope counts as broken: some two minutes."""


class Scope:
    """Keeps the mirror true for one namespace, or for all.

    `run` until cancelled; whatever the API server explains is told and waited out.
    """

    def __init__(
        self,
        access: ClusterAccess,
        mirror: Mirror,
        kopf: Kopf,
        wake: Callable[[str], None],
        namespace: str | None,
        settings: StreamSettings,
        on_restart: Callable[[str], None],
        on_synced: Callable[[], None],
        on_restored: Callable[[], None] = lambda: None,
    ) -> None:
        self.namespace = namespace
        self._access = access
        self._mirror = mirror
        self._kopf = kopf
        self._wake = wake
        self._settings = settings
        self._on_restart = on_restart
        self._on_synced = on_synced
        self._on_restored = on_restored
        self._echoes = Echoes()
        self._opened = asyncio.Event()
        self._gap = asyncio.Event()
        self._prune_at = float("inf")
        self._outlived = False
        """Whether the watch was opened at a version that there is not any more."""
        self._turned_at: float | None = None
        self._quick_ends = 0
        self._watching: Watching | None = None
        self.synced = False
        """Whether every object that is not finished is known."""
        self.listed = False
        """Whether every object is known."""
        self.problem: str | None = None
        """Why the mirror may be out of date at the moment, as a sentence; None when it is not."""
        self.broken: BaseException | None = None
        """What kopf said when its watch ended again and again although lists work, which a restart may mend."""

    def silent(self) -> float:
        """Seconds since this made progress. An API server that is away does not count as silence."""
        return 0.0 if self._turned_at is None else self._now() - self._turned_at

    def expect(self, run: DbtRun) -> None:
        """Our own write was answered with this: the watch has to bring it."""
        self._echoes.expect(run.uid, run.metadata.resource_version, self._now())

    def doubt(self) -> None:
        """What is known may be newer than what there is: a complete list shows it."""
        self._gap.set()

    # ── the watch's listener ──

    def opened(self, resource_version: str) -> None:
        """As `kopf_thread.Listener`."""
        self._echoes.opened(resource_version, self._now())
        # It has opened late, or again after a gap. What was deleted before, kopf does not report.
        if self._opened.is_set():
            self._gap.set()
        self._opened.set()

    def changed(self, item: DbtRun | Unreadable) -> None:
        """As `kopf_thread.Listener`."""
        self._echoes.deliver(item.uid, resource_version_of(item), self._now())
        self._take(item)

    def deleted(self, uid: str) -> None:
        """As `kopf_thread.Listener`."""
        self._echoes.forget(uid)
        if self._mirror.gone(uid) is not None:
            self._wake(uid)

    # ── following ──

    async def run(self) -> None:
        """Follows until it is cancelled."""
        failures = 0
        while True:
            self._turn()
            try:
                await check_discovery(self._access)
                await check_list(self._access, self.namespace)
                began = self._now()
                reason, error = await self._watch()
            except KubeError as trouble:
                self._tell(_sentence(trouble, self.namespace))
            except Exception as surprise:  # whatever one namespace brings, the others go on
                logger.exception("DbtRuns%s cannot be followed.", self._where())
                self._tell(f"DbtRuns{self._where()} cannot be followed: {type(surprise).__name__}.")
            else:
                failures = 0
                quick = self._now() - began < QUICK_END
                self._quick_ends = self._quick_ends + 1 if quick else 0
                self._tell(reason)
                explained = getattr(error, "status", None) == FORBIDDEN  # no restart gives a right
                lasting = self._quick_ends >= self._settings.give_up_after and not explained
                self.broken = (error or RuntimeError(reason)) if lasting else None
                self._on_restart(reason)
                await self._pause(self._quick_ends)
                continue
            failures += 1
            await self._pause(failures)

    async def _watch(self) -> tuple[str, BaseException | None]:
        """Until the watch ends or shows itself dead: why."""
        if not self.synced:
            await self._list_unfinished()
        # Before kopf begins: the opening may be reported at once.
        self._echoes.begin(self._now())
        self._opened.clear()
        self._gap.clear()
        async with self._kopf.watch(self.namespace, self) as watching:
            self._watching = watching
            opened = asyncio.create_task(self._opened.wait())
            either: set[asyncio.Future[Any]] = {watching.ended, opened}
            patience = min(self._settings.open_within, self._settings.stall_after)
            try:
                await asyncio.wait(either, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            finally:
                opened.cancel()
            self._opened.set()  # one that opens later has a gap behind it: the list is made now
            # Only now: what changes while the list is read comes by on the open watch.
            await self._list()
            self._outlived = False  # it was opened just now
            self.listed = True
            self._synced()
            if not self._quick_ends:  # else the watch may end again
                self._recovered()
            return await self._follow(watching)

    async def _list_unfinished(self) -> None:
        """What has something to do, before what is finished: there can be a hundred times more of that."""
        try:
            async with asyncio.timeout(FIRST_SECONDS):
                async for item in list_objects(self._access, self.namespace, self._settings.page_size, UNFINISHED):
                    self._turn()
                    self._take(item)
        except (KubeError, TimeoutError) as error:
            logger.info("DbtRuns that are not finished could not be listed first: %s", str(error) or "it took too long")
        else:
            self._synced()

    async def _list(self) -> None:
        # Both before the list is asked for: what is created later must not count as missing from it.
        known = self._mirror.uids(self.namespace)
        before = self._mirror.versions(self.namespace)
        listed = set()
        believed = False
        items = list_objects(self._access, self.namespace, self._settings.page_size)
        async for item in items:
            self._turn()
            listed.add(item.uid)
            if not believed and is_older(item.uid, resource_version_of(item), before):
                self._went_back(item, before[item.uid])
                believed = True
            self._take(item)
        if not items.left_out:  # else what is missing is not known to be gone
            self._forget_missing(known, listed)

    def _went_back(self, item: DbtRun | Unreadable, known: float) -> None:
        """A list that was asked for later has an older version: the cluster was restored from a backup."""
        logger.warning(
            "The API server went back to older versions of DbtRuns%s: the cluster was restored from a backup."
            " The watcher continues from the restored objects, and searches dbt Cloud for runs that they do not name."
            " First seen by the uid %s: it has version %s, and version %d of it was known%s.",
            self._where(),
            item.uid,
            resource_version_of(item),
            known,
            " before it was deleted" if self._mirror.dead(item.uid) else "",
            extra={"namespace": self.namespace},
        )
        self._on_restored()
        self._mirror.doubt(self.namespace)
        self._echoes.forget_all()
        self._outlived = True

    async def _follow(self, watching: Watching) -> tuple[str, BaseException | None]:
        doubt = asyncio.create_task(self._doubt())
        either: set[asyncio.Future[Any]] = {watching.ended, doubt}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if doubt.done():
                return doubt.result(), None
            error = watching.ended.exception()
            # kopf's errors carry the whole answer behind the server's sentence.
            said = error.args[0] if error and error.args else error
            words = str(said) if said else type(error).__name__ if error else "kopf stopped by itself"
            return f"The watch{self._where()} ended: {words}.", error
        finally:
            doubt.cancel()

    async def _doubt(self) -> str:
        """Returns when there is proof that the watch is dead."""
        pace = min(self._settings.stall_after, self._settings.prune_every) / 4
        self._prune_at = self._now() + pace  # the first doubt comes soon: kopf may have found nothing to watch
        opened = self._now()
        while True:
            self._turn()
            with suppress(TimeoutError):
                async with asyncio.timeout(pace):
                    await self._gap.wait()
            if self._now() - opened >= SURE_SECONDS:
                self._recovered()
            overdue = self._echoes.overdue(self._now(), self._settings.stall_after)
            if overdue is not None:
                run = self._mirror.get(overdue) or overdue
                what = f"it did not deliver a known version of {run}" if overdue else "it does not open"
                return f"The watch{self._where()} is dead: {what}."
            try:
                await self._check()
            except KubeError as error:
                logger.info("The mirror could not be checked against a list: %s", error)
            if self._outlived:
                return f"The API server went back{self._where()}: the watch is opened again."

    async def _check(self) -> None:
        """Lists everything after a gap in the watch, and versions now and then."""
        if self._gap.is_set():
            await self._list()
            self._gap.clear()
        if self._now() < self._prune_at:
            return
        jitter = random.uniform(0.9, 1.1)  # noqa: S311
        self._prune_at = self._now() + self._settings.prune_every * jitter
        known, before = self._mirror.uids(self.namespace), self._mirror.versions(self.namespace)
        listed = await list_versions(self._access, self.namespace, self._settings.page_size)
        if any(is_older(uid, resource_version, before) for uid, resource_version in listed.items()):
            self._gap.set()  # the next complete list is believed
            return
        self._forget_missing(known, listed)
        for uid, resource_version in listed.items():
            if not self._mirror.dead(uid):
                self._echoes.expect(uid, resource_version, self._now())

    def _take(self, item: DbtRun | Unreadable) -> None:
        if (uid := self._mirror.take(item)) is not None:
            self._wake(uid)

    def _forget_missing(self, known: Collection[str], listed: Collection[str]) -> None:
        for uid in frozenset(known) - frozenset(listed):
            self._echoes.forget(uid)
        for uid in self._mirror.prune(known, listed):
            self._wake(uid)

    # ── reporting ──

    def _turn(self) -> None:
        self._turned_at = self._now()

    def _tell(self, problem: str) -> None:
        if problem != self.problem:
            logger.warning("%s", problem, extra={"namespace": self.namespace})
        self.problem = problem

    def _synced(self) -> None:
        if not self.synced:
            self.synced = True
            self._on_synced()

    def _recovered(self) -> None:
        if self.problem is not None:
            logger.info("DbtRuns%s are followed again.", self._where(), extra={"namespace": self.namespace})
        self.problem = None

    async def _pause(self, failures: int) -> None:
        pause = backoff(failures, self._settings.retry_first, self._settings.retry_most)
        await asyncio.sleep(jittered(pause))

    def _where(self) -> str:
        return "" if self.namespace is None else f" in the namespace {self.namespace}"

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


def resource_version_of(item: DbtRun | Unreadable) -> str:
    """The version of an object, readable or not."""
    return item.resource_version if isinstance(item, Unreadable) else item.metadata.resource_version


def is_older(uid: str, resource_version: str, before: Mapping[str, float]) -> bool:
    """Whether a list has an older version of an object than was known before the list was asked for."""
    number = version(resource_version)
    return number is not None and number < before.get(uid, -1)


def _sentence(error: KubeError, namespace: str | None) -> str:
    match error:
        case NotInstalled():
            return (
                f"The CRD {PLURAL}.{GROUP} is not installed: install the chart with crds.enabled=true, or apply"
                f" deploy/crd/{GROUP}_{PLURAL}.yaml; the watcher then continues by itself."
            )
        case Forbidden() if namespace is not None:
            return (
                f"The namespace {namespace} is not served: the watcher needs the verbs list and watch on"
                f" {PLURAL}.{GROUP} there, or the namespace does not exist ({error})."
            )
        case Forbidden():
            return f"The watcher needs the verbs list and watch on {PLURAL}.{GROUP} in all namespaces: {error}."
    where = "" if namespace is None else f" in the namespace {namespace}"
    return f"DbtRuns{where} cannot be listed: {error}"
