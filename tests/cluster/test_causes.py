"""Eight ways for a run to fail: kubectl and the Event say why, without anybody opening dbt Cloud."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import yaml

from tests.causes import CAUSES, jobs
from tests.cluster.shell import Shell
from tests.controlplane import ControlPlane
from tests.stack import JOBS, Own, Stack, until

FIRST = 501
PLANTED = "hunter2-hunter2-hunter2"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    await asyncio.to_thread(plane.create_namespace_sync, "causes")
    async with Stack.up(plane, "causes", tmp_path_factory.mktemp("causes")) as stack:
        for job in jobs(FIRST):
            await stack.ask("PUT", f"/jobs/{job['id']}", job)
        yield stack


@pytest.mark.parametrize("name", CAUSES)
async def test_kubectl_and_the_event_tell_the_cause(stack: Stack, name: str) -> None:
    own, cause = Own(stack, f"cause-{name}"), CAUSES[name]
    await own.apply(None, job={"id": FIRST + list(CAUSES).index(name)})
    await own.reaches(cause.phase)
    shown = yaml.safe_load(await stack.kubectl("get", "dr", own.name, "-o", "yaml"))["status"]
    assert cause.words in shown["message"]
    assert "failedStep" in shown

    async def event() -> bool:
        told = [message for reason, message in await stack.events(own.name) if reason == cause.phase]
        return len(told) == 1 and cause.words in told[0] and "\n" not in told[0]

    await until(event, what=f"the Event tells {cause.words}")


@pytest.mark.parametrize("name", CAUSES)
async def test_the_command_line_tells_the_cause(stack: Stack, tmp_path: Path, name: str) -> None:
    """After the test above, of the same object."""
    ended = await Shell(stack.plane, tmp_path, stack.namespace).types("describe", f"cause-{name}")
    assert ended.code == 0, ended.err
    message = next(line for line in ended.out.splitlines() if line.startswith("Message:"))
    assert CAUSES[name].words in message
    assert "Log of the failed step" in ended.out


async def test_no_secret_of_a_log_is_in_the_object(stack: Stack) -> None:
    log = f"Runtime Error\n  could not connect\n  password={PLANTED}\n  postgres://loader:{PLANTED}@db/shop"
    job = {"name": "leaky", "id": 599, "run": 1, "outcomes": ["error"], "fails_at": "parse", "log": log}
    await stack.ask("PUT", "/jobs/599", job)
    own = Own(stack, "leaky")
    await own.apply(None, job={"id": 599})
    status = await own.reaches("Failed")
    assert status["failedStep"]["logTail"].endswith("password=***\n  postgres://***@db/shop\nFinished: Error")
    assert PLANTED not in str(await stack.get(own.name))
    assert PLANTED not in str(await stack.events(own.name))


@pytest.mark.parametrize(
    ("job", "runs", "files"), [(JOBS["success"], 0, 0), (FIRST + list(CAUSES).index("test"), 1, 2)]
)
async def test_a_failure_costs_a_request_for_its_steps_and_one_for_each_dbt_step(
    stack: Stack, job: int, runs: int, files: int
) -> None:
    own = Own(stack, f"requests-{job}")
    await stack.ask("DELETE", "/requests")
    await own.apply(None, job={"id": job})
    await own.reaches("Succeeded", "Failed")
    kinds = (await stack.ask("GET", "/requests"))["kinds"]
    assert (kinds.get("get-run", 0), kinds.get("get-artifact", 0)) == (runs, files), kinds


async def test_a_missing_secret_is_a_warning_at_once_and_the_end_after_the_connections_deadline(stack: Stack) -> None:
    own = Own(stack, "mistyped")
    await own.apply(connectionRef={"name": "no-such"}, connectionDeadlineSeconds=15)

    async def warned() -> bool:
        missing = f"There is no Secret 'no-such' in the namespace {stack.namespace}."
        return ("InvalidConnection", missing) in await stack.events(own.name)

    await until(warned, 30, "the Event tells of the missing Secret")
    status = await own.status()
    assert (status["phase"], status["reason"]) == ("Pending", "InvalidConnection")
    ended = await own.reaches("Error")
    assert ended["reason"] == "InvalidConnection"
    assert ended["message"].startswith("Nothing was started, because the connection could not be used for 15 s: ")
    assert stack.watcher.text().count("A connection cannot be used") == 1
    assert "Error (InvalidConnection): Nothing was started" in stack.watcher.text()
