"""What a namespace that is deleted, missing or forbidden costs the others: their starts and ends, against a control.

The control is a second system on the same machine whose namespaces are all well; both are measured at the same time.
One JSON line a row; the exit code is 1 if a target is missed.

    python -m tests.bench.bench_namespaces [--runs 40]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from tests.bench.bench_watcher import row
from tests.controlplane import ControlPlane
from tests.hostile.tenants import Seen, attackers_of, sharing, times
from tests.stack import Stack, until

TARGET: Final = 1.2
"""The 95th percentile, as a multiple of the control's."""
PAUSE: Final = 0.4
PATIENCE: Final = 120.0


async def bench(runs: int) -> bool:
    with tempfile.TemporaryDirectory(prefix="bench-namespaces-") as folder:
        async with ControlPlane.start(Path(folder)) as plane, AsyncExitStack() as opened:
            stacks, views = [], []
            for name in ("others", "control"):
                (Path(folder) / name).mkdir()
                stack = await opened.enter_async_context(sharing(plane, name, Path(folder) / name))
                stacks.append(stack)
                views.append(await opened.enter_async_context(Seen.watching(stack)))
            met = []

            async def compare(label: str) -> None:
                each = (times(*pair, label.replace("_", "-"), runs, PAUSE) for pair in zip(stacks, views, strict=True))
                mine, theirs = await asyncio.gather(*each)
                for kind, took, control in zip(("start", "end"), mine.p95, theirs.p95, strict=True):
                    ratio = took / control
                    met.append(row(f"{label}_{kind}_p95_ratio", ratio, TARGET, seconds=round(took, 3)))

            await compare("well")
            await forbid(stacks[0])
            await compare("forbidden")
            await restart(*stacks)
            await compare("forbidden_after_restart")
            await delete(stacks[0])
            await compare("deleted")
            await restart(*stacks)
            await compare("missing_after_restart")
            return all(met)


async def forbid(stack: Stack) -> None:
    await stack.plane.kubectl("-n", attackers_of(stack.namespace), "delete", "role", "dbtrun")


async def delete(stack: Stack) -> None:
    namespace = attackers_of(stack.namespace)
    await stack.plane.kubectl("delete", "namespace", namespace, "--wait=false")

    async def gone() -> bool:
        return await stack.plane.read(f"/api/v1/namespaces/{namespace}") is None

    await until(gone, PATIENCE, f"the namespace {namespace} gone", pause=0.3)


async def restart(*stacks: Stack) -> None:
    for stack in stacks:
        said = len(stack.watcher.text())
        await stack.watcher.stop()
        stack.watcher.start()
        await stack.watcher.says(r"Watching \d+ DbtRuns", after=said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40, help="of each system in each state")
    sys.exit(not asyncio.run(bench(parser.parse_args().runs)))


if __name__ == "__main__":
    main()
