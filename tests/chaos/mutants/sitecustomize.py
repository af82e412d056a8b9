"""Takes one part of the protocol out of a watcher as it starts, so that a campaign can show that it would notice.

Python imports a module of this name by itself when its folder is on the path.
"""

from __future__ import annotations

import os
from typing import Any


def _without_look_up() -> None:
    from watcher.dbtcloud.client import Client

    async def nothing(*_arguments: object) -> tuple[()]:
        return ()

    for name in ("find_marked", "find_retries"):
        setattr(Client, name, nothing)


def _without_quiet_period() -> None:
    from watcher import settings

    settings.Settings._check_periods = lambda _: None  # type: ignore[method-assign,assignment]


def _without_precondition() -> None:
    from watcher.cluster.access import ClusterAccess

    careful = ClusterAccess.request

    async def careless(self: ClusterAccess, method: str, path: str, **rest: Any) -> bytes:
        body = rest.get("body")
        if method == "PATCH" and body:
            metadata = {key: value for key, value in body["metadata"].items() if key != "resourceVersion"}
            rest["body"] = {**body, "metadata": metadata}
        return await careful(self, method, path, **rest)

    setattr(ClusterAccess, "request", careless)  # noqa: B010 - the types differ on purpose


def _without_past() -> None:
    from watcher.lifecycle import pending

    setattr(pending, "past_is_clear", lambda _case: True)  # noqa: B010 - as above


def _cursor_first() -> None:
    import asyncio
    import math

    from watcher.mirroring import Serving
    from watcher.mirrors.progress import Reading

    async def careless(self: Serving, reading: Reading) -> None:
        fresh = [run for run in self._cursor.fresh(reading.runs) if self._selects(run)]
        self._cursor = self._cursor.moved(reading, fresh, [])
        self._read_through = reading.through
        if fresh:
            self._dealt, self._saved_at = True, -math.inf
            await self._save()
        await asyncio.sleep(3.0)  # the API server is slow
        await self._deal_with(fresh)

    setattr(Serving, "take_finished", careless)  # noqa: B010 - as above


MUTANTS = {
    "look-up": _without_look_up,
    "quiet-period": _without_quiet_period,
    "precondition": _without_precondition,
    "past": _without_past,
    "cursor": _cursor_first,
}
if "CHAOS_MUTANT" in os.environ:
    MUTANTS[os.environ["CHAOS_MUTANT"]]()
