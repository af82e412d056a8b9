"""How soon the end of a run is in its status: without webhooks, with them, and with webhooks that go wrong.

Control plane, simulator and watcher are processes on this machine. All rows are of one run: the first one has no
webhook, so it says what the machine takes. One JSON line a row; the exit code is 1 if a target is missed.

    python -m tests.bench.bench_webhooks [--ends 500] [--rate 50]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import hmac
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import httpx

from tests.bench.bench_watcher import NAMESPACE, Api, Cpu, Observer, _quantile, row, started
from tests.controlplane import ControlPlane
from tests.ports import free_ports
from tests.stack import Stack
from tests.stack.dbt import ACCOUNT
from tests.stack.stack import SECRET
from watcher.dbtcloud.hints import FOR_HINTS

WITHOUT_TARGET, WITH_TARGET, BROKEN_TARGET = 10.0, 1.0, 10.0
"""Seconds from the end of a run in dbt Cloud to the watch event of its status, for 99 of 100."""
BROKEN: Final = {"drop": 0.2, "double": 0.2, "delay": [0, 1]}
FORGED: Final = 0.2
REQUESTS_TARGET: Final = FOR_HINTS + 0.02
"""Of the account's budget: what webhooks may cost, and the watcher's own looks."""
PER_MINUTE: Final = 1_500
UNTOLD_SECONDS: Final = 120.0
"""An end that is not told after this time counts as told then: the target is missed, and the other rows go on."""


class Bench:
    """A watcher that takes webhooks, and runs that end."""

    def __init__(self, stack: Stack, seen: Observer, port: int) -> None:
        self.stack = stack
        self.seen = seen
        self.url = f"http://127.0.0.1:{port}/hooks/{NAMESPACE}/{SECRET}"
        self.believed = 0
        """Runs whose status said that they had ended before they had."""

    async def subscribe(self) -> None:
        """From now on, dbt Cloud sends webhooks."""
        answer = await self.stack.control.post(
            f"{self.stack.url}/api/v3/accounts/{ACCOUNT}/webhooks/subscriptions",
            json={"name": "bench", "client_url": self.url},
            headers={"Authorization": f"Token {self.stack.token}"},
        )
        keys = self.stack.keys() | {"webhook-secret": answer.json()["data"]["hmac_secret"]}
        await self.stack.apply(self.stack.secret(SECRET, keys))

    async def ends(self, runs: list[int], rate: float, forged: float = 0.0) -> list[float]:
        """Ends these runs at this rate. Returns the seconds from each end to the watch event of its status."""
        at: dict[int, float] = {}
        begin = time.monotonic()

        async def end(number: int, run_id: int) -> None:
            await asyncio.sleep(begin + number / rate - time.monotonic())
            if random.random() < forged:  # noqa: S311 - a part of them, not a secret
                await self._forge(run_id)
            at[run_id] = time.monotonic()
            self.believed += run_id in self.seen.ended
            await self.stack.ask("POST", f"/runs/{run_id}/finish", {"status": 10})

        await asyncio.gather(*(end(number, run_id) for number, run_id in enumerate(runs)))

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(UNTOLD_SECONDS):
                while not self.seen.ended.keys() >= set(runs):  # noqa: ASYNC110 - another part of the bench changes it
                    await asyncio.sleep(0.05)
        now = time.monotonic()
        return [self.seen.ended.get(run_id, now) - at[run_id] for run_id in runs]

    async def _forge(self, run_id: int) -> None:
        data = {"runId": str(run_id), "runStatus": "Success", "runStatusCode": 10}
        event = {"accountId": ACCOUNT, "eventId": f"forged-{run_id}", "eventType": "job.run.completed", "data": data}
        content = json.dumps(event).encode()
        signature = hmac.new(b"a guess", content, hashlib.sha256).hexdigest()
        async with httpx.AsyncClient(trust_env=False, verify=False) as http:  # noqa: S501 - http
            answer = await http.post(self.url, content=content, headers={"Authorization": signature})
        self.believed += answer.is_success


async def bench(ends: int, rate: float) -> bool:
    with tempfile.TemporaryDirectory(prefix="bench-webhooks-") as folder:
        async with ControlPlane.start(Path(folder)) as plane, Api.of(plane) as api:
            plane.create_namespace_sync(NAMESPACE)
            (port,) = free_ports(1)
            settings = {
                "DBTRUN_WEBHOOKS_LISTEN": f"127.0.0.1:{port}",
                "DBTRUN_FEED_INTERVAL_SECONDS": "5",
                "DBTRUN_REQUESTS_PER_MINUTE": str(PER_MINUTE),
                "DBTRUN_LOG_LEVEL": "info",
            }
            async with Stack.up(plane, NAMESPACE, Path(folder), settings=settings) as stack:
                return await measured(stack, api, ends, rate, port)


async def measured(stack: Stack, api: Api, ends: int, rate: float, port: int) -> bool:
    await stack.watcher.says("Watching 0 DbtRuns")
    observer = Observer(api)
    async with asyncio.TaskGroup() as group:
        watching = group.create_task(observer.run())
        await started(api, observer, [f"run-{number}" for number in range(3 * ends)])
        await asyncio.sleep(15)
        own = Bench(stack, observer, port)
        live = [int(run["id"]) for run in await stack.runs("endless") if run["finished_at"] is None]
        without = await own.ends(live[:ends], rate)
        met = [told("without_webhooks_p99_s", without, WITHOUT_TARGET, rate)]

        await own.subscribe()
        await asyncio.sleep(35)  # the Secret is read again
        await stack.ask("DELETE", "/requests")
        processes = {"watcher": stack.watcher.pid, "simulator": stack.simulator.pid, "bench": os.getpid()}
        begin, cpu, before = time.monotonic(), Cpu(stack.plane.pids | processes), await api.writes()
        with_them = await own.ends(live[ends : 2 * ends], rate)
        minutes = (time.monotonic() - begin) / 60
        spent, made = cpu.per(ends), await api.writes() - before
        writes = {kind: round(count / ends, 2) for kind, count in made.items()}
        part = _quantile(with_them, 99) / _quantile(without, 99)
        cost: dict[str, Any] = {"of_without": round(part, 3), "cpu_ms": spent, "writes": writes}
        met.append(told("with_webhooks_p99_s", with_them, WITH_TARGET, rate, **cost))
        lists = (await stack.ask("GET", "/requests"))["kinds"].get("list-runs", 0)
        met.append(row("lists_of_the_budget", lists / minutes / PER_MINUTE, REQUESTS_TARGET, rate=rate, lists=lists))

        await stack.ask("PUT", "/webhooks", BROKEN)
        broken = await own.ends(live[2 * ends : 3 * ends], rate, FORGED)
        met.append(told("with_broken_webhooks_p99_s", broken, BROKEN_TARGET, rate, **BROKEN, forged=FORGED))
        met.append(row("forged_believed", own.believed, 0))
        watching.cancel()
    return all(met)


def told(name: str, lags: list[float], target: float, rate: float, **more: Any) -> bool:
    p50 = round(statistics.median(lags), 2)
    return row(name, _quantile(lags, 99), target, ends=len(lags), ends_per_second=rate, p50=p50, **more)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ends", type=int, default=500, help="of each of the three rows")
    parser.add_argument("--rate", type=float, default=50.0, help="ends a second, and so webhooks")
    args = parser.parse_args()
    sys.exit(not asyncio.run(bench(args.ends, args.rate)))


if __name__ == "__main__":
    main()
