"""A server that a Secret names as "dbt Cloud" does what it likes: its own objects say so, and nobody else notices.

`make hostile` tries all attacks, level by level; `make test` tries every second one, of two or three levels at once.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import pytest_asyncio

from dbtrun.api import Reason
from tests.controlplane import ControlPlane
from tests.hostile.attacks import ATTACKS, Attack, Level, sampled
from tests.hostile.tenants import (
    ROOT,
    Seen,
    Times,
    assert_traced,
    attackers_of,
    attacking,
    name_of,
    of_levels,
    runs_of,
    sharing,
    times,
)
from tests.stack import Stack, until

TOGETHER: Final = (
    [(level,) for level in Level]
    if "LIVES" in os.environ
    else [(Level.TCP, Level.TLS, Level.JSON), (Level.HTTP, Level.MEANING)]
)
"""The levels whose attacks go on at the same time."""
PROBE: Final = Path(__file__).parent / "probe"
PAUSE: Final = 0.4
"""Seconds between two runs of the healthy tenant."""
RUNS: Final = 10
"""Of the healthy tenant when a group of attacks begins, and as many when each was met."""
PEAK: Final = 256
"""MiB that the watcher may ever have resident."""
LIMIT: Final = 512
"""MiB that the chart gives to it."""
BLOCK: Final = 0.25
"""Seconds for which the event loop may be blocked."""
FLOOR: Final = 6 * BLOCK
"""Seconds that a start or an end may take longer besides: each of its steps (to see the object or the end, to ask, to
write, to be told) may meet a block. On a busy machine, times how many times longer than it ran the watcher waited for a
processor."""

ATTEMPTS: Final = 3
"""What an attack delays, it delays each time; a busy machine may delay anything once."""

module = pytest.mark.asyncio(loop_scope="module")


class Tenancy(NamedTuple):
    """A system, and what its healthy tenant sees."""

    stack: Stack
    seen: Seen


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Tenancy]:
    """With a watcher that attackers use, too."""
    folder = tmp_path_factory.mktemp("hostile")
    measured = {"HOSTILE_BLOCKS": str(folder / "blocks"), "PYTHONPATH": f"{PROBE}{os.pathsep}{ROOT}"}
    async with sharing(plane, "hostile", folder, measured) as stack, Seen.watching(stack) as seen:
        assert stack.memory_limit == LIMIT
        yield Tenancy(stack, seen)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alone(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Tenancy]:
    """The same on the same machine at the same time, so that whatever else keeps the machine busy delays both."""
    async with sharing(plane, "alone", tmp_path_factory.mktemp("alone")) as stack, Seen.watching(stack) as seen:
        yield Tenancy(stack, seen)


@module
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("levels", TOGETHER, ids="-".join)
async def test_an_attack_stays_with_its_connection(shared: Tenancy, alone: Tenancy, levels: tuple[Level, ...]) -> None:
    stack, began, pid = shared.stack, time.time(), shared.stack.watcher.pid
    for attempt in range(ATTEMPTS):
        late = await lateness(shared, alone, levels, f"{'-'.join(levels)}-{attempt}")
        assert stack.watcher.running
        assert stack.watcher.pid == pid
        if not late:
            break
    block = longest_block(stack.folder / "blocks", began)
    print(json.dumps({"levels": levels, "peak_mib": resident(pid), "longest_block": block}))
    assert not late
    assert block <= BLOCK
    assert resident(pid) <= PEAK
    assert_traced(stack.watcher.text())


async def lateness(shared: Tenancy, alone: Tenancy, levels: tuple[Level, ...], label: str) -> dict[str, Any]:
    """The figures of a healthy tenant beside these attacks, if it is served too late; otherwise nothing."""
    pid = shared.stack.watcher.pid
    before = scheduled(pid)
    async with attacking(shared.stack, *levels):
        took = [await both(shared, alone, f"{label}-first")]
        wrong = await reasons(shared.stack, of_levels(levels))
        took.append(await both(shared, alone, f"{label}-then"))
    assert not wrong
    ran, waited = (now - then for now, then in zip(scheduled(pid), before, strict=True))
    starved = 1 + waited / ran
    beside, control = (sum(each, Times()) for each in zip(*took, strict=True))
    told = {
        "levels": levels, "starved": round(starved, 1),
        "start_p95": [round(control.p95[0], 2), round(beside.p95[0], 2)],
        "end_p95": [round(control.p95[1], 2), round(beside.p95[1], 2)],
    }  # fmt: skip
    print(json.dumps(told))
    allowed = (2 * theirs + FLOOR * starved for theirs in control.p95)
    return told if any(mine > most for mine, most in zip(beside.p95, allowed, strict=True)) else {}


async def both(shared: Tenancy, alone: Tenancy, label: str) -> tuple[Times, Times]:
    """What the healthy tenant's runs take beside the attackers and alone, at the same time."""
    beside, control = await asyncio.gather(*(times(*each, label, RUNS, PAUSE) for each in (shared, alone)))
    return beside, control


async def listed(stack: Stack) -> list[dict[str, Any]]:
    answer = await stack.plane.read(runs_of(attackers_of(stack.namespace)))
    assert answer is not None
    return list(answer["items"])


async def reasons(stack: Stack, chosen: Mapping[str, Attack]) -> dict[str, str]:
    """What is wrong about the condition `Reachable` of the objects that follow a run. Right once is right."""
    wrong, quoted = dict.fromkeys(chosen, ""), dict[str, str]()

    async def right() -> bool:
        told = {each["metadata"]["name"]: _reachable(each) for each in await listed(stack)}
        for name in tuple(wrong):
            reason, message = told[f"{name_of(name)}-follows"]
            if "secret" in message:
                quoted[name] = f"it is quoted: {message}"
            if _expected(chosen[name].reason, reason, message):
                del wrong[name]
            else:
                wrong[name] = f"{reason} ({message}), not {chosen[name].reason}"
        return not wrong

    with suppress(AssertionError):
        await until(right, 120, "what each object says of its connection", pause=1.0)
    # On a machine that is too busy an attacker does not come to its point.
    return {name: told for name, told in wrong.items() if "was not answered within" not in told} | quoted


def _expected(expected: Reason, reason: str, message: str) -> bool:
    """On a busy machine an attacker may be too slow to do worse than that."""
    slow = reason == Reason.UNREACHABLE and "was not answered within" in message
    return reason == expected or (slow and expected is not Reason.ANSWERING)


def _reachable(run: Mapping[str, Any]) -> tuple[str, str]:
    for condition in run.get("status", {}).get("conditions", []):
        if condition["type"] == "Reachable":
            return condition["reason"], condition["message"]
    return "", ""


def longest_block(file: Path, since: float) -> float:
    """For how long the watcher's event loop was blocked at most since then, in seconds; 0: not worth telling."""
    if not file.exists():
        return 0.0
    told = (map(float, line.split()) for line in file.read_text().splitlines())
    return max((block for at, block in told if at >= since), default=0.0)


def scheduled(pid: int) -> tuple[int, int]:
    """For how long the process's first thread ran, and for how long it waited for a processor (nanoseconds)."""
    ran, waited, _ = Path(f"/proc/{pid}/schedstat").read_text().split()
    return int(ran), int(waited)


def resident(pid: int) -> int:
    """The most MiB that the process ever had resident."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024


def test_there_are_as_many_attacks_as_promised() -> None:
    assert len(ATTACKS) >= 100
    assert {attack.reason for attack in ATTACKS.values()} >= {
        Reason.UNREACHABLE, Reason.SERVER_ERROR, Reason.RATE_LIMITED, Reason.UNAUTHORIZED, Reason.FORBIDDEN,
    }  # fmt: skip
    assert len({name_of(name) for name in ATTACKS}) == len(ATTACKS)


def test_the_sample_has_every_level_with_every_reason() -> None:
    sample = sampled(ATTACKS)
    assert len(sample) >= len(ATTACKS) / 2
    assert {(each.level, each.reason) for each in sample.values()} == {
        (each.level, each.reason) for each in ATTACKS.values()
    }
