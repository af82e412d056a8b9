"""A server that a Secret names as "dbt Cloud" does what it likes: its own objects say so, and nobody else notices."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import pytest
import pytest_asyncio
from prometheus_client.parser import text_string_to_metric_families

from tests.controlplane import ControlPlane
from tests.hostile.attacks import ATTACKS, Attack, Level
from tests.hostile.replies import ACCOUNT, JOB, RUN
from tests.stack import Program, Stack, dbt_run, until
from watcher.api import API_VERSION, PLURAL, Reason

NAMESPACE: Final = "hostile"
RUNS: Final = f"/apis/{API_VERSION}/namespaces/{NAMESPACE}/{PLURAL}"
SECRETS: Final = f"/api/v1/namespaces/{NAMESPACE}/secrets"
SETTINGS: Final = {
    "DBTRUN_REQUEST_SECONDS": "8",
    "DBTRUN_SUBMIT_WINDOW_SECONDS": "5",
    "DBTRUN_QUIET_PERIOD_SECONDS": "15",
    "DBTRUN_LOG_LEVEL": "info",
}
PAUSE: Final = 0.4
"""Seconds between two runs of the healthy tenant."""
ROOT: Final = Path(__file__).parents[2]
LEAST: Final = 15
"""Runs of the healthy tenant beside each group of attacks."""
PEAK: Final = 256
"""MiB that the watcher may ever have resident; the chart's limit is 512."""
SLACK: Final = 20.0
"""Seconds beyond twice the time alone, times how many times longer than it ran the watcher waited for a processor."""

module = pytest.mark.asyncio(loop_scope="module")


class Times:
    """How long a healthy tenant's runs took, in seconds."""

    def __init__(self) -> None:
        self.starts: list[float] = []
        self.ends: list[float] = []

    @property
    def p95(self) -> tuple[float, float]:
        return _p95(self.starts), _p95(self.ends)


def _p95(values: list[float]) -> float:
    return sorted(values)[int(0.95 * (len(values) - 1))]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    await plane.kubectl("create", "namespace", NAMESPACE)
    async with Stack.up(plane, NAMESPACE, tmp_path_factory.mktemp("hostile"), settings=SETTINGS) as stack:
        await stack.watcher.says("Watching ")
        yield stack


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def alone(stack: Stack) -> Times:
    times = Times()
    for number in range(LEAST):
        await healthy(stack, f"alone-{number}")
        await asyncio.sleep(PAUSE)
    await measure(stack, "alone", times)
    return times


async def healthy(stack: Stack, name: str) -> None:
    """Somebody else's run, by the default connection."""
    manifest = dbt_run(name) | {"metadata": {"name": name, "annotations": {"applied": str(time.time())}}}
    await stack.plane.change("POST", RUNS, manifest)


async def measure(stack: Stack, prefix: str, times: Times) -> None:
    """Waits for the ends of the runs of that name, and notes how late each was started and seen to end."""

    async def ended() -> list[dict[str, Any]] | None:
        runs = [each for each in await listed(stack) if each["metadata"]["name"].startswith(f"{prefix}-")]
        over = all(each.get("status", {}).get("phase") == "Succeeded" for each in runs)
        return runs if over else None

    for run in await until(ended, 120, f"every run of {prefix} succeeds", pause=0.5):
        status = run["status"]
        applied = float(run["metadata"]["annotations"]["applied"])
        times.starts.append(_seconds(status["queuedAt"]) - applied)
        times.ends.append(_seconds(status["completionTime"]) - _seconds(status["finishedAt"]))


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


async def listed(stack: Stack) -> list[dict[str, Any]]:
    answer = await stack.plane.read(RUNS)
    assert answer is not None
    return list(answer["items"])


@asynccontextmanager
async def attackers(stack: Stack, level: Level) -> AsyncIterator[Mapping[str, int]]:
    """The attacks of a level, each on its port."""
    argv = [sys.executable, "-m", "tests.hostile.server", level, str(stack.folder)]
    program = Program(f"attackers-{level}", argv, {"PYTHONPATH": str(ROOT)}, stack.folder / f"attackers-{level}.log")
    program.start()
    try:
        told = await program.says(r'\{"ports": .*\}')
        yield json.loads(told.group(0))["ports"]
    finally:
        await program.kill()


def name_of(attack: str) -> str:
    """Its objects' name."""
    return "".join(letter if letter.isalnum() else "-" for letter in attack.lower())


def objects_of(stack: Stack, name: str, attack: Attack, port: int) -> list[dict[str, Any]]:
    """A connection to the attacker; objects that follow a run there, start one, and look for a job by its names."""
    keys = {"token": "dbtc_attacker", "account-id": str(ACCOUNT)}
    keys["host"] = f"{'https' if attack.tls else 'http'}://localhost:{port}"
    if attack.tls and attack.trusted:
        keys["ca.crt"] = (stack.folder / "hostile-ca.pem").read_text()
    by = {"connectionRef": {"name": name}}
    named = {"name": "nightly", "project": "x" * 200, "environment": "y"}
    runs = [
        dbt_run(f"{name}-follows", None, runId=RUN, **by),
        dbt_run(f"{name}-starts", None, job={"id": JOB}, **by),
        dbt_run(f"{name}-looks", None, job=named, **by),
    ]
    for run in runs:
        run["metadata"]["labels"] = {"attacker": "yes"}
    return [stack.secret(name, keys), *runs]


@module
@pytest.mark.parametrize("level", Level)
async def test_an_attack_stays_with_its_connection(stack: Stack, alone: Times, level: Level) -> None:
    chosen = {name: attack for name, attack in ATTACKS.items() if attack.level is level}
    beside = Times()
    pid = stack.watcher.pid
    process = psutil.Process(pid)
    began, used = time.monotonic(), sum(process.cpu_times()[:2])
    before = scheduled(pid)
    async with attackers(stack, level) as ports:
        for name, port in ports.items():
            for manifest in objects_of(stack, name_of(name), chosen[name], port):
                await stack.plane.change("POST", RUNS if "spec" in manifest else SECRETS, manifest)
        for number in range(LEAST):
            await healthy(stack, f"beside-{level}-{number}")
            await asyncio.sleep(PAUSE)
        wrong = await reasons(stack, chosen)
        await measure(stack, f"beside-{level}", beside)
    peak, late = resident(pid), await lag(stack)
    ran, waited = (now - then for now, then in zip(scheduled(pid), before, strict=True))
    starved = 1 + waited / ran
    told = {
        "level": str(level), "attacks": len(chosen), "peak_mib": peak, "late_beats": late, "starved": round(starved, 1),
        "cpu": round((sum(process.cpu_times()[:2]) - used) / (time.monotonic() - began), 2),
        "start_p95": [round(alone.p95[0], 2), round(beside.p95[0], 2)],
        "end_p95": [round(alone.p95[1], 2), round(beside.p95[1], 2)],
    }  # fmt: skip
    print(json.dumps(told))
    assert not wrong
    assert stack.watcher.running
    assert stack.watcher.pid == pid
    for mine, theirs in zip(beside.p95, alone.p95, strict=True):
        assert mine <= 2 * theirs + SLACK * starved, told
    assert peak <= PEAK, told
    assert_traced(stack.watcher.text())
    await stack.plane.change("DELETE", f"{RUNS}?labelSelector=attacker")


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


def scheduled(pid: int) -> tuple[int, int]:
    """For how long the process's first thread ran, and for how long it waited for a processor (nanoseconds)."""
    ran, waited, _ = Path(f"/proc/{pid}/schedstat").read_text().split()
    return int(ran), int(waited)


def resident(pid: int) -> int:
    """The most MiB that the process ever had resident."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) // 1024


async def lag(stack: Stack) -> dict[str, int]:
    """How many of the event loop's beats were late, by how much."""
    address = (await stack.watcher.says(r"Listening on (\S+)\.\"")).group(1)
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        text = (await http.get(f"http://{address}/metrics")).text
    beats = {
        sample.labels["le"]: int(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "dbtrun_loop_lag_seconds_bucket"
    }
    return {f">{limit}": beats["+Inf"] - beats[limit] for limit in ("0.1", "0.25", "0.5", "1.0")}


def assert_traced(log: str) -> None:
    """A traceback says whose it is."""
    for line in log.splitlines():
        if "Traceback" in line:
            told = json.loads(line)
            assert {"connection", "objects"} <= told.keys() or "run" in told, line


def test_there_are_as_many_attacks_as_promised() -> None:
    assert len(ATTACKS) >= 100
    assert {attack.reason for attack in ATTACKS.values()} >= {
        Reason.UNREACHABLE, Reason.SERVER_ERROR, Reason.RATE_LIMITED, Reason.UNAUTHORIZED, Reason.FORBIDDEN,
    }  # fmt: skip
    assert len({name_of(name) for name in ATTACKS}) == len(ATTACKS)
