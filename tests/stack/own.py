"""One test's object in a system that many tests share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.stack.site import Site, dbt_run


class Own:
    """An object of this test alone, and the dbt Cloud runs that are its."""

    def __init__(self, stack: Site, name: str) -> None:
        self.stack, self.name, self.uid = stack, name, ""

    async def apply(self, job: str | None = "success", /, **spec: Any) -> None:
        await self.apply_with([], job, **spec)

    async def apply_with(self, others: list[Mapping[str, Any]], job: str | None = "success", /, **spec: Any) -> None:
        """Applies the object together with others, as a Secret."""
        await self.stack.apply(*others, dbt_run(self.name, job, **spec))
        self.uid = (await self.stack.get(self.name))["metadata"]["uid"]

    async def reaches(self, *phases: str, **options: Any) -> dict[str, Any]:
        return await self.stack.reaches(self.name, *phases, **options)

    async def status(self) -> dict[str, Any]:
        return await self.stack.status(self.name)

    async def condition(self, kind: str) -> dict[str, str]:
        conditions = (await self.status()).get("conditions", [])
        return next((c for c in conditions if c["type"] == kind), {})

    async def patch(self, **spec: Any) -> None:
        await self.stack.patch(self.name, spec)

    async def delete(self) -> None:
        """Deletes the object and waits until it is gone."""
        await self.stack.delete(self.name)
        await self.stack.gone(self.name, seconds=60)

    async def finish(self, status: int) -> None:
        """Ends the object's one live run as dbt Cloud would: 10, 20 or 30."""
        (run,) = [run for run in await self.runs() if run["status"] < 10]
        await self.stack.ask("POST", f"/runs/{run['id']}/finish", {"status": status})

    async def runs(self) -> list[dict[str, Any]]:
        """The runs that the object started, resumed ones too, oldest first."""
        mine: list[dict[str, Any]] = []
        for run in sorted(await self.stack.runs(), key=lambda run: int(run["id"])):
            if f"dbtrun:{self.uid}/" in run["cause"] or run["retrying_run_id"] in [one["id"] for one in mine]:
                mine.append(run)
        return mine

    async def run_statuses(self) -> list[int]:
        """The dbt Cloud status codes of its runs."""
        return [int(run["status"]) for run in await self.runs()]
