"""What two hundred watchers of assets cost a triggerer, and how long after a run's end its events are there.

All watchers are in this process, as in a triggerer, on a real API server. `process_time` is of this process, which also
writes the ends. One JSON line; the exit code is 1 if a target is missed.

    python -m tests.bench.bench_events [--watchers 200] [--runs 200] [--seconds 60]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from typing import Any, Final

from airflow_trigger.waiting.hub import DEFAULT_PACE
from tests.cluster.event_support import Remembering, Watchers, end
from tests.cluster.trigger_support import administering, eventually, install_crd, watches
from tests.controlplane import ControlPlane

NAMESPACE: Final = "events"
IDLE_TARGET: Final = 0.02
"""Of a core, while nothing ends."""
LATENCY_TARGET: Final = 2.5
"""Seconds from the write of the status to the event, p99."""


async def measured(count: int, runs: int, seconds: float) -> dict[str, Any]:
    """The figures."""
    async with ControlPlane.start() as plane:
        await asyncio.to_thread(install_crd, plane)
        await asyncio.to_thread(plane.create_namespace_sync, NAMESPACE)
        async with administering(plane, NAMESPACE) as objects, Watchers.of(plane, objects, count) as watchers:
            await asyncio.sleep(10)  # whatever the beginning has left to do
            opened = await watches(plane)
            used, began = time.process_time(), time.monotonic()
            await asyncio.sleep(seconds)
            idle = (time.process_time() - used) / (time.monotonic() - began)
            heard: dict[str, list[float]] = {}
            watchers.triggerer.listen = lambda _, payload: heard.setdefault(payload["key"], []).append(time.monotonic())
            written = {}
            for run in range(1, runs + 1):
                written[f"1/{run}"] = await end(objects, run)
                watchers.triggerer.store_all()

            async def all_told() -> bool:
                watchers.triggerer.store_all()
                return sum(map(len, heard.values())) >= runs * count // 2

            await eventually(all_told, "all are told")
    delays = [at - written[key] for key, times in heard.items() for at in times]
    return {
        "watchers": count,
        "runs": runs,
        "events": len(delays),
        "watches": opened,
        "idle share of a core": round(idle, 4),
        "status to event p50": round(statistics.median(delays), 3),
        "status to event p99": round(statistics.quantiles(delays, n=100)[98], 3),
    }


def main() -> None:
    """Measures and judges."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--watchers", type=int, default=200)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    asked = parser.parse_args()
    Remembering.pace = DEFAULT_PACE
    figures = asyncio.run(measured(asked.watchers, asked.runs, asked.seconds))
    print(json.dumps(figures))
    met = (
        figures["watches"] == 1
        and figures["idle share of a core"] <= IDLE_TARGET
        and figures["status to event p99"] <= LATENCY_TARGET
    )
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
