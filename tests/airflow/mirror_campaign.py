"""`python -m tests.airflow.mirror_campaign --runs 1000`: runs started elsewhere, and a day on which everything dies.

Real Airflow 3.3, a real API server, the watcher and the simulator. Runs are started elsewhere, while the triggerer and
the watcher are killed with SIGKILL every 20 s, the API server restarts, the DAG files are parsed again, and dbt Cloud
does not answer for ten minutes. The last line is JSON. The exit code is 1 if a run was lost, or given to the DAG twice,
if more than one in a hundred asset events came twice, or if one of the disturbances met nobody, as on a machine so busy
that no watcher lives long enough to ask dbt Cloud.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import click

from tests.airflow import environments
from tests.airflow.reacting import ASSET, Reacting
from tests.airflow.rig import Rig
from tests.stack.dbt import ACCOUNT
from tests.stack.mirrors import elsewhere, mirror, mirrored, ready

MIRROR: Final = "campaign"
RELEASE: Final = next(version for version in environments.RELEASES if version.startswith("3.3."))
AWAY: Final = {"effect": {"type": "reply", "status": 503, "body": "html"}}
"""What dbt Cloud answers while it is away."""
DOUBLED: Final = 0.01
"""Of all asset events."""
SUCCESS: Final = 10


@dataclass(frozen=True, kw_only=True)
class Day:
    """What happens."""

    runs: int
    seconds: float
    """In which the runs are started."""
    every: float
    """Seconds between two kills of the triggerer, and of the watcher."""
    away: float
    """Seconds for which dbt Cloud does not answer."""
    patience: float
    """Seconds after the last run until everything must have come."""


@dataclass(kw_only=True)
class Figures:
    """What was met and found."""

    runs: int = 0
    seconds: float = 0.0
    happened: dict[str, int] = field(default_factory=dict)
    objects: int = 0
    asset_events: int = 0
    gaps: int = 0
    runs_given: int = 0
    lost_objects: list[int] = field(default_factory=list)
    lost_events: list[int] = field(default_factory=list)
    not_given: list[int] = field(default_factory=list)
    given_twice: list[str] = field(default_factory=list)
    events_doubled: int = 0
    touched: list[int] = field(default_factory=list)
    started_by_us: int = 0

    @property
    def good(self) -> bool:
        """Whether everything that was to happen did, and the promise was kept."""
        wrong = (
            self.lost_objects,
            self.lost_events,
            self.not_given,
            self.given_twice,
            self.touched,
            self.started_by_us,
        )
        return all(self.happened.values()) and not any(wrong) and self.events_doubled <= DOUBLED * self.runs


class Campaign:
    """One day on one rig."""

    def __init__(self, rig: Rig, day: Day) -> None:
        self.rig, self.day, self.reacting = rig, day, Reacting(rig)
        self.happened: Counter[str] = Counter()
        self.started: list[int] = []

    async def run(self) -> Figures:
        """Lives the day, and judges it."""
        labels = {"test": ASSET}
        keeps = {"historyLimit": {"succeeded": 1000, "failed": 1000}, "maxPerMinute": 1000}
        await self.rig.stack.apply(mirror(MIRROR, template={"labels": labels}, **keeps))
        await ready(self.rig.stack, MIRROR)
        await self.reacting.until_watched()
        began = time.monotonic()
        disturbances = (
            self._kills("triggerer"),
            self._kills("watcher"),
            self._restarts(),
            self._parses(),
            self._away(),
        )
        going_on = [asyncio.create_task(each) for each in disturbances]
        try:
            await self._start_runs()
            await going_on[-1]
            await asyncio.sleep(2 * self.day.every)
        finally:
            for task in going_on:
                task.cancel()
            await asyncio.gather(*going_on, return_exceptions=True)
        self._revive()
        with contextlib.suppress(AssertionError):  # the verdict says what is missing
            await self.reacting.until_given({self._key(run_id) for run_id in self.started}, self.day.patience)
        return await self._judged(time.monotonic() - began)

    def _key(self, run_id: int) -> str:
        return f"{ACCOUNT}/{run_id}"

    async def _start_runs(self) -> None:
        for _ in range(self.day.runs):
            self.started.append(await elsewhere(self.rig.stack))
            await asyncio.sleep(self.day.seconds / self.day.runs)

    async def _kills(self, name: str) -> None:
        await asyncio.sleep(self.day.every / 2 if name == "watcher" else 0)
        while True:
            await asyncio.sleep(self.day.every)
            if name == "watcher":
                await self.rig.stack.watcher.kill()
            else:
                await self.rig.airflow.kill(name)
            self._revive()
            self.happened[f"{name} killed"] += 1

    def _revive(self) -> None:
        self.rig.keep_watcher()
        self.rig.airflow.keep("triggerer")

    async def _restarts(self) -> None:
        for _ in range(2):
            await asyncio.sleep(self.day.seconds / 3)
            await self.rig.plane.kill_apiserver()
            await self.rig.plane.start_apiserver()
            self.happened["API server restarted"] += 1

    async def _parses(self) -> None:
        for _ in range(2):
            await asyncio.sleep(self.day.seconds / 4)
            await self.rig.airflow.parsed_again(ASSET)
            self.happened["DAG files parsed"] += 1

    async def _away(self) -> None:
        await asyncio.sleep(self.day.seconds / 4)
        fault = await self.rig.stack.ask("POST", "/faults", AWAY)
        await asyncio.sleep(self.day.away)
        hits = next(
            each["hits"] for each in (await self.rig.stack.ask("GET", "/faults"))["faults"] if each["id"] == fault["id"]
        )
        await self.rig.stack.ask("DELETE", "/faults")
        self.happened["requests that dbt Cloud did not answer"] = hits

    async def _judged(self, seconds: float) -> Figures:
        objects = await mirrored(self.rig.stack, MIRROR)
        ended = {name for name, item in objects.items() if item.get("status", {}).get("phase") == "Succeeded"}
        payloads = self.reacting.payloads()
        emitted = Counter(payload["key"] for payload in payloads if not payload.get("gap"))
        given = Counter(await self.reacting.given())
        runs = {run["id"]: run for run in await self.rig.stack.runs()}
        return Figures(
            runs=len(self.started),
            seconds=round(seconds, 1),
            happened=dict(self.happened),
            objects=len(objects),
            asset_events=len(payloads),
            gaps=sum(bool(payload.get("gap")) for payload in payloads),
            runs_given=len(given),
            lost_objects=[run for run in self.started if f"{MIRROR}-{run}" not in ended],
            lost_events=[run for run in self.started if self._key(run) not in emitted],
            not_given=[run for run in self.started if self._key(run) not in given],
            given_twice=[key for key, count in given.items() if count > 1],
            events_doubled=sum(count - 1 for count in emitted.values()),
            touched=[run for run in self.started if runs[run]["status"] != SUCCESS],
            started_by_us=len(runs.keys() - set(self.started)),
        )


async def campaign(folder: Path, day: Day) -> Figures:
    """One on a rig of its own."""
    async with _rig(folder) as rig:
        return await Campaign(rig, day).run()


@contextlib.asynccontextmanager
async def _rig(folder: Path) -> AsyncIterator[Rig]:
    await asyncio.to_thread(environments.ensure, environments.RELEASES[RELEASE])
    async with Rig.up(environments.RELEASES[RELEASE], folder) as rig:
        yield rig


@click.command(help=__doc__)
@click.option("--runs", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--seconds", type=float, help="In which they are started; by default 0.9 for each.")
@click.option("--every", type=float, default=20.0, show_default=True, help="Seconds between two kills.")
@click.option("--away", type=float, default=600.0, show_default=True, help="Seconds without dbt Cloud.")
@click.option("--patience", type=float, default=1200.0, show_default=True, help="Seconds for what is left at the end.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep the logs there.")
def main(runs: int, seconds: float | None, every: float, away: float, patience: float, keep: Path | None) -> None:
    """Lives one day."""
    day = Day(runs=runs, seconds=seconds or 0.9 * runs, every=every, away=away, patience=patience)
    with tempfile.TemporaryDirectory(prefix="mirror-campaign-") as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        figures = asyncio.run(campaign(folder, day))
    click.echo(json.dumps(asdict(figures)))
    sys.exit(0 if figures.good else 1)


if __name__ == "__main__":
    main()
