"""DbtRuns before, during and after something that happens to a watcher: none starts twice, none is lost."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, Final

from dbtrun.api import API_VERSION, PLURAL
from tests.stack import until
from tests.stack.site import Site, dbt_run

LIVE: Final = 5
"""DbtRuns whose dbt Cloud runs go on through everything."""
PAUSE_SECONDS: Final = 1.0
"""Between two new ones."""
RUNNING, SUCCEEDED = 3, 10
"""dbt Cloud's statuses."""


class Load:
    """All DbtRuns of a site."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._numbers = itertools.count(1)

    @contextlib.asynccontextmanager
    async def going(self) -> AsyncIterator[None]:
        """Some runs are live and new ones come; at the end each has had one run and says that it succeeded."""
        await self._create("endless", LIVE)
        await until(self._live, 120, f"{LIVE} live runs", pause=0.3)
        over = asyncio.Event()
        coming = asyncio.create_task(self._come(over))
        try:
            yield
        finally:
            over.set()
            await coming
        await self._end()

    async def _come(self, over: asyncio.Event) -> None:
        while not over.is_set():
            await self._create("parallel", 1)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), PAUSE_SECONDS)

    async def _create(self, job: str, count: int) -> None:
        await self._site.apply(*(dbt_run(f"{job}-{next(self._numbers)}", job) for _ in range(count)))

    async def _live(self) -> bool:
        return [run["status"] for run in await self._site.runs()].count(RUNNING) >= LIVE

    async def _objects(self) -> list[dict[str, Any]]:
        listed = await self._site.plane.read(f"/apis/{API_VERSION}/namespaces/{self._site.namespace}/{PLURAL}")
        assert listed is not None
        return list(listed["items"])

    async def _end(self) -> None:
        for run in await self._site.runs("endless"):
            await self._site.ask("POST", f"/runs/{run['id']}/finish", {"status": SUCCEEDED})

        async def succeeded() -> bool:
            objects[:] = await self._objects()
            return {each.get("status", {}).get("phase") for each in objects} == {"Succeeded"}

        objects: list[dict[str, Any]] = []
        try:
            await until(succeeded, 240, "every DbtRun succeeded", pause=0.5)
        except AssertionError as error:
            phases = Counter(each.get("status", {}).get("phase") for each in objects)
            raise AssertionError(f"{error}: {phases}\n{await self._site.watchers_said()}") from None
        followed, started = (
            [each["status"]["runId"] for each in objects],
            [run["id"] for run in await self._site.runs()],
        )
        twice = sorted(set(started) - set(followed))
        print(f"{len(objects)} DbtRuns, {len(started)} dbt Cloud runs")
        assert not twice, f"{len(twice)} runs were started twice: {twice}"
        assert len(started) == len(objects)
