"""The mirror's source: every served namespace as a scope of its own, all watched by one thread of kopf."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping

from dbtrun.api import DbtRun
from watcher.cluster.access import ClusterAccess
from watcher.cluster.kopf_thread import Kopf
from watcher.cluster.mirror import Mirror
from watcher.cluster.scope import Scope, StreamSettings

logger = logging.getLogger(__name__)


class StreamBroken(Exception):
    """No watch works, again and again, although the API server answers."""


class Stream:
    """Calls `wake(uid)` in our loop when something new is known of a uid, or it is gone."""

    def __init__(
        self,
        access: ClusterAccess,
        mirror: Mirror,
        wake: Callable[[str], None],
        *,
        namespaces: Collection[str] = (),
        settings: StreamSettings | None = None,
        on_restart: Callable[[str], None] = lambda _reason: None,
        on_restored: Callable[[], None] = lambda: None,
    ) -> None:
        """Follows these namespaces, or all when none is named. A namespace need not exist yet."""
        settings = settings or StreamSettings()
        mirror.on_record = self._expect
        self._kopf = Kopf(access.kopf_login, silence=settings.silent_after)
        self._on_restart = on_restart
        self.synced = asyncio.Event()
        """Set once all that is not finished in one namespace is known; never cleared. Others may follow at any time."""
        self.scopes = {
            namespace: Scope(
                access, mirror, self._kopf, wake, namespace, settings, self._restarted, self.synced.set, on_restored
            )
            for namespace in dict.fromkeys(namespaces or (None,))
        }
        self._broken = asyncio.Event()

    @property
    def problems(self) -> Mapping[str | None, str]:
        """What is wrong with a namespace (None: with all), as a sentence, by its name."""
        return {name: scope.problem for name, scope in self.scopes.items() if scope.problem is not None}

    @property
    def problem(self) -> str | None:
        """The sentences together; None when nothing is wrong."""
        return " ".join(dict.fromkeys(self.problems.values())) or None

    @property
    def unknown(self) -> tuple[str, ...]:
        """The namespaces of which nothing is known yet: neither what is in them nor what is wrong with them."""
        return tuple(scope.namespace or "all" for scope in self._all if not scope.synced and scope.problem is None)

    @property
    def all_listed(self) -> bool:
        """Whether every object is known, of the namespaces that can be listed."""
        return all(scope.listed or scope.problem is not None for scope in self._all)

    def silent(self) -> float:
        """Seconds since the scope that has been silent for longest made progress."""
        return max(scope.silent() for scope in self.scopes.values())

    async def run(self) -> None:
        """Follows until it is cancelled.

        Raises:
            StreamBroken: no watch works although lists do; its cause is what kopf said.
        """
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(scope.run(), name=f"scope {scope.namespace}") for scope in self._all]
                await self._broken.wait()
                for task in tasks:
                    task.cancel()
        finally:
            self._kopf.close()
        cause = next(iter(self._all)).broken
        raise StreamBroken(f"{self.problem} This happened repeatedly.") from cause

    @property
    def _all(self) -> Collection[Scope]:
        return self.scopes.values()

    def _restarted(self, reason: str) -> None:
        self._on_restart(reason)
        # A single scope that breaks is shown as its problem: the others still serve their namespaces.
        if all(scope.broken is not None for scope in self._all):
            self._broken.set()

    def doubt(self, namespace: str) -> None:
        """Somebody saw an older version of an object there than there was before."""
        scope = self.scopes.get(namespace) or self.scopes.get(None)
        if scope is not None:
            scope.doubt()

    def _expect(self, run: DbtRun) -> None:
        scope = self.scopes.get(run.metadata.namespace) or self.scopes.get(None)
        if scope is not None:
            scope.expect(run)
