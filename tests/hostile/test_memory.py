"""What honest, large files cost: a warehouse is away, and every job of a big project fails at once."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PEAK = 140
"""MiB of the whole process. With the budget of bytes it peaks near 90, without it near 285."""


async def test_the_results_of_many_runs_at_once_stay_within_the_budget() -> None:
    reading = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.hostile.large", "12", "22", cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await reading.communicate()
    told = json.loads(output)
    print(output.decode())
    assert reading.returncode == 0
    assert told["read"] == 12
    assert told["peak_mib"] <= PEAK
