"""How kopf is configured: to watch DbtRuns of one namespace, or of all, and nothing else.

It writes nothing to any object, and its handler returns None because kopf would write a result into the status.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Any, cast

import aiohttp
import kopf
from kopf._core.reactor.inventory import ResourceMemories, ResourceMemory

from dbtrun.api import GROUP, PLURAL, VERSION, DbtRun
from dbtrun.kube.errors import Misconfigured
from watcher.cluster.kopf_login import IDENTITY, Login
from watcher.cluster.mirror import Unreadable, interpret

logger = logging.getLogger(__name__)


async def operate(
    namespace: str | None,
    login: Login,
    session_of: Callable[[kopf.ConnectionInfo], Any],
    changed: Callable[[DbtRun | Unreadable], None],
    deleted: Callable[[str], None],
    *,
    silence: float,
    stop: asyncio.Event,
    strangers: Collection[Any],
) -> None:
    """Watches until `stop` is set, or kopf gives up.

    Args:
        namespace: None: all.
        session_of: makes what kopf sends its requests through.
        changed: called with each object that is new or has changed.
        deleted: called with the uid of each object that is gone.
        silence: seconds after which a watch that brings nothing is opened again.
        strangers: tasks of this loop that kopf must leave alone.
    """
    scope: dict[str, Any] = {"clusterwide": True} if namespace is None else {"namespaces": [namespace]}
    tasks = await kopf.spawn_tasks(
        registry=_registry(login, session_of, changed, deleted),
        settings=_settings(silence),
        standalone=True,
        identity=IDENTITY,  # type: ignore[arg-type]  # a NewType of str that kopf does not export
        memories=_Forgetful(),
        stop_flag=stop,
        **scope,
    )
    await kopf.run_tasks(tasks, ignored=cast("Collection[asyncio.Task[Any]]", strangers))


def _registry(
    login: Login,
    session_of: Callable[[kopf.ConnectionInfo], Any],
    changed: Callable[[DbtRun | Unreadable], None],
    deleted: Callable[[str], None],
) -> kopf.OperatorRegistry:
    # The default registry has login handlers of its own, which read ~/.kube/config.
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def log_in(**_: Any) -> kopf.AiohttpSession:
        try:
            info = await login()
        except Misconfigured as error:
            logger.warning("kopf cannot log in: %s", error)
            raise kopf.TemporaryError(str(error), delay=5) from error
        return kopf.AiohttpSession(server=info.server, aiohttp_session=cast("aiohttp.ClientSession", session_of(info)))

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def on_event(event: kopf.RawEvent, **_: Any) -> None:
        body = event["object"]
        # Observed in kopf 1.45: kopf never reports a deletion that falls into a gap of the watch. The list finds it.
        if event["type"] == "DELETED":
            deleted(body["metadata"]["uid"])
        else:
            changed(interpret(body))

    return registry


class _Forgetful(ResourceMemories):
    """kopf would remember every object that it ever saw, a kilobyte each; no handler of ours needs it."""

    async def recall(self, raw_body: Any, **options: Any) -> ResourceMemory:
        return await super().recall(raw_body, **{**options, "ephemeral": True})


def _settings(silence: float) -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.scanning.disabled = True  # or it lists and watches all CRDs and namespaces
    settings.posting.enabled = False
    settings.peering.standalone = True
    settings.process.ultimate_exiting_timeout = None  # a SIGKILL is not kopf's to send
    settings.persistence.diffbase_storage = _NoDiffBase()
    settings.persistence.progress_storage = _NoProgress()
    settings.watching.server_timeout = 300  # an int: kopf puts it into the query as it is
    settings.watching.inactivity_timeout = silence
    settings.watching.connect_timeout = 10
    settings.queueing.idle_timeout = 2.0  # kopf keeps the last body of an object that changed for so long
    settings.networking.request_timeout = 30
    # Then it ends, and we look why. With kopf's own backoffs a revoked right was noticed after 54 s.
    settings.networking.error_backoffs = [1, 1, 2]
    return settings


class _NoDiffBase(kopf.DiffBaseStorage):
    """kopf prepares a diff for every event, even if no handler asks for one: a third of its CPU."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None


class _NoProgress(kopf.ProgressStorage):
    """No handler of ours has progress to store."""

    def fetch(self, **_: Any) -> None:
        return None

    def store(self, **_: Any) -> None:
        return None

    def purge(self, **_: Any) -> None:
        return None

    def touch(self, **_: Any) -> None:
        return None

    def clear(self, *, essence: Any) -> Any:
        return essence
