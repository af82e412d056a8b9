"""Takes one part of the protocol out of a watcher as it starts, so that a campaign can show that it would notice.

Python imports a module of this name by itself when its folder is on the path.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
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
    from watcher.cluster import access, writer

    async def careless(self: Any, run: Any, change: Mapping[str, Any], sub: str | None = None) -> Any:
        metadata = {**change.get("metadata", {}), "uid": run.uid}
        body = {**change, "metadata": metadata}
        answer = await self._access.request("PATCH", writer._path(run, sub), body=body, content_type=access.MERGE_PATCH)
        return writer._parse(answer)

    writer.Writer._patch = careless  # type: ignore[method-assign]


MUTANTS = {
    "look-up": _without_look_up,
    "quiet-period": _without_quiet_period,
    "precondition": _without_precondition,
}
if "CHAOS_MUTANT" in os.environ:
    MUTANTS[os.environ["CHAOS_MUTANT"]]()
