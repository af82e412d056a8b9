"""`python -m tests.airflow.reaction_times`: how soon Airflow reacts to runs, and what its watchers cost.

Real Airflow 3.3, a real API server, the watcher and the simulator. For each run, the clock starts when a watch of the
API server shows the final status. It is read when the asset event is in Airflow's database, and when a DAG run that
takes the event is queued. Runs end so slowly that the DAG runs before have ended: their tasks take the processor, and
Airflow queues no DAG run beyond the limit of the DAG. The share of a core is what the triggerer uses with all watchers
while no run ends, less what it uses with those of the tests. One JSON line for each target; the exit code is 1 if one
is missed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from dbtrun.api import API_VERSION
from dbtrun.kube.config import ClusterConfig
from dbtrun.kube.connect import connect
from tests.airflow import environments
from tests.airflow.mirror_campaign import RELEASE
from tests.airflow.reacting import ASSET, Reacting
from tests.airflow.rig import WATCHERS, Rig
from tests.bench.bench_trigger import row

EVENT_TARGET: Final = 2.5
"""Seconds from the status to the asset event, p99."""
QUEUED_TARGET: Final = 10.0
"""Seconds from the status to the DAG run, p99."""
CPU_TARGET: Final = 0.02
"""Of a core, for all watchers."""
MANY: Final = "many"
"""The DAG of all other watchers."""
SETTLING: Final = 20.0
"""Seconds for whatever the beginning and the end of watchers leave to do."""


@dataclass(frozen=True)
class Reaction:
    """Seconds from a run's final status."""

    event: float
    queued: float


async def reactions(reacting: Reacting, names: list[str], pause: float) -> list[Reaction]:
    """Runs that end one after the other, and how soon Airflow reacted to each."""
    async with _ends(reacting.rig) as seen:
        keys: dict[str, str] = {}
        for name in names:
            keys |= await reacting.end(name)
            await asyncio.sleep(pause)
        await reacting.until_given(set(keys.values()))
    rows = {row["key"]: row for row in reacting.airflow.rows(TIMES, ASSET)}
    found = [(seen[name], rows[key]) for name, key in keys.items()]
    return [Reaction(row["stored"].timestamp() - at, row["queued"].timestamp() - at) for at, row in found]


TIMES: Final = """
    select event.extra -> 'payload' ->> 'key' as key, min(event.timestamp) as stored, min(dag_run.queued_at) as queued
    from asset_event event join asset on asset.id = event.asset_id
    join dagrun_asset_event taken on taken.event_id = event.id join dag_run on dag_run.id = taken.dag_run_id
    where asset.name = %s group by 1
"""


@contextlib.asynccontextmanager
async def _ends(rig: Rig) -> AsyncIterator[dict[str, float]]:
    """When each DbtRun was seen to be over, by name: the time of day, as in Airflow's database."""
    seen: dict[str, float] = {}
    path = f"/apis/{API_VERSION}/namespaces/{rig.stack.namespace}/dbtruns"

    async def look() -> None:
        async with connect(ClusterConfig(config_file=str(rig.plane.kubeconfig))) as cluster:
            while True:
                async with cluster.stream(path, {"watch": "true"}, 600.0) as changes:
                    async for line in changes:
                        run = json.loads(line)["object"]
                        if run.get("status", {}).get("completionTime"):
                            seen.setdefault(run["metadata"]["name"], time.time())

    looking = asyncio.create_task(look())
    try:
        yield seen
        if looking.done():
            looking.result()
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


async def cores(rig: Rig, seconds: float) -> float:
    """How many cores the triggerer uses."""

    def used() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in rig.airflow.family("triggerer"))

    before, began = used(), time.monotonic()
    await asyncio.sleep(seconds)
    return (used() - before) / (time.monotonic() - began)


async def measured(rig: Rig, runs: int, pause: float, seconds: float) -> bool:
    """All figures, and whether each target is met."""
    reacting = Reacting(rig)
    await reacting.until_watched()
    await reacting.until_many_watched(WATCHERS)
    # The first task of an Airflow that has just started takes long: the DAG would reach its limit meanwhile.
    await reacting.until_given(set((await reacting.end("warm-up")).values()))
    await asyncio.sleep(SETTLING)
    watches, many = await rig.watches(), await cores(rig, seconds)
    told = await reactions(reacting, [f"timed-{number}" for number in range(runs)], pause)
    await rig.airflow.desk.pause(MANY)
    await rig.airflow.parsed_again(MANY)
    await reacting.until_many_watched(0)
    await asyncio.sleep(SETTLING)
    few = await cores(rig, seconds)
    return all(
        [
            row("watches", watches, 1, watchers=WATCHERS),
            row("cores_of_watchers", many - few, CPU_TARGET, watchers=WATCHERS, seconds=seconds, without_them=few),
            _latency("status_to_event_p99_s", [each.event for each in told], EVENT_TARGET),
            _latency("status_to_dag_run_p99_s", [each.queued for each in told], QUEUED_TARGET),
        ]
    )


def _latency(name: str, values: list[float], target: float) -> bool:
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    more = {"p50": cuts[49], "max": max(values), "runs": len(values), "load": os.getloadavg()[0]}
    return row(name, cuts[98], target, **more)


async def _bench(folder: Path, runs: int, pause: float, seconds: float) -> bool:
    release = environments.RELEASES[RELEASE]
    await asyncio.to_thread(environments.ensure, release)
    async with Rig.up(release, folder) as rig:
        return await measured(rig, runs, pause, seconds)


@click.command(help=__doc__)
@click.option("--runs", type=click.IntRange(2), default=60, show_default=True)
@click.option("--pause", type=float, default=1.5, show_default=True, help="Seconds between a run's end and the next.")
@click.option("--seconds", type=float, default=75.0, show_default=True, help="For which processor time is measured.")
def main(runs: int, pause: float, seconds: float) -> None:
    """Measures and judges. The environment variable WATCHERS is the number of other watchers."""
    with tempfile.TemporaryDirectory(prefix="reaction-times-") as folder:
        met = asyncio.run(_bench(Path(folder), runs, pause, seconds))
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
