"""`dbtrun logs` with a token: the whole logs of a run, from dbt Cloud to the terminal."""

from __future__ import annotations

import asyncio
import json
import resource
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.cluster.shell import Ended, Shell
from tests.controlplane import ControlPlane
from tests.stack import Own, Stack
from tests.stack.dbt import ACCOUNT
from tests.stack.stack import SECRET

pytestmark = pytest.mark.asyncio(loop_scope="module")
NAMESPACE = "whole-logs"
LINES, MANY = 6_000, 60_000
LINE = "  12:00:01  {number} of 60000 OK created sql table model analytics.fct_orders [SELECT 1021 in 3.21s]"
SECRETS = ("hunter2-of-the-log", "dbtu_aBcDeFgHiJkLmNoPqRsTuV")
ENDING = [
    f"password: {SECRETS[0]}",
    f"found {SECRETS[1]} in the environment",
    "\x1b[31mDatabase Error\x1b[0m",
    "the end",
]
LOG, HUGE = ("\n".join([*(LINE.format(number=number) for number in range(lines)), *ENDING]) for lines in (LINES, MANY))
QUICK = {"queue": 0, "start": 0, "run": 1, "steps": ["dbt seed", "dbt build"], "outcomes": ["error"]}
SCENARIO = {
    "account": {"id": ACCOUNT},
    "jobs": [{"id": 7, "name": "large", "log": LOG, **QUICK}, {"id": 8, "name": "huge", "log": HUGE, **QUICK}],
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    await asyncio.to_thread(plane.create_namespace_sync, NAMESPACE)
    async with Stack.up(plane, NAMESPACE, tmp_path_factory.mktemp("logs"), scenario=SCENARIO) as stack:
        for name, job in (("large", 7), ("huge", 8)):
            own = Own(stack, name)
            await own.apply(None, job={"id": job}, connectionRef={"name": SECRET})
            await own.reaches("Failed")
        yield stack


@pytest.fixture
def shell(stack: Stack, tmp_path: Path) -> Shell:
    return Shell(stack.plane, tmp_path, NAMESPACE)


async def logs(shell: Shell, stack: Stack, *arguments: str, token: str | None = None) -> Ended:
    """With a token for the simulator, whose host is not dbt Cloud's own."""
    shell.env["DBT_CLOUD_TOKEN"] = token or stack.token
    return await shell.types("logs", "large", "--host", stack.url, *arguments)


async def test_every_line_arrives_without_secrets_and_escapes(shell: Shell, stack: Stack) -> None:
    ended = await logs(shell, stack)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert [line for line in lines if "OK created sql table" in line] == LOG.splitlines()[:LINES]
    headings = [line for line in lines if line.startswith("==> ")]
    assert [heading.split(". ", 1)[1] for heading in headings][-2:] == [
        "Invoke dbt with `dbt seed`", "Invoke dbt with `dbt build`",
    ]  # fmt: skip
    assert ("Database Error" in lines, "the end" in lines) == (True, True)
    assert [secret for secret in (*SECRETS, stack.token, "\x1b") if secret in ended.out] == []


async def test_the_token_of_the_secret_does_the_same(shell: Shell, stack: Stack) -> None:
    ended = await shell.types("logs", "large", "--secret", "--step", "1")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("==> 1. ")


async def test_without_a_token_the_end_of_the_failed_log_and_the_way_to_the_rest(shell: Shell) -> None:
    ended = await shell.types("logs", "large")
    assert ended.code == 0
    assert "the end\n" in ended.out
    assert len(ended.out) < 10_000
    assert ended.err == "For the whole logs, set DBT_CLOUD_TOKEN or use --secret.\n"


async def test_the_memory_is_bounded_by_the_log(shell: Shell, stack: Stack) -> None:
    """The log has 6 MB; most of the process is the Kubernetes client."""
    size = 6 * 1024 * 1024
    assert len(HUGE) > 0.9 * size
    shell.env["DBT_CLOUD_TOKEN"] = stack.token
    allowed = 200 * 1024 * 1024 + 4 * size
    following = await shell.start(
        "logs", "huge", "--host", stack.url,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed)),
    )  # fmt: skip
    ended = await shell.ends(following)
    assert ended.code == 0, ended.err
    assert "the end\n" in ended.out


@pytest.mark.parametrize(
    ("effect", "words"),
    [
        ({"type": "reply", "status": 403, "body": "enveloped"}, "the token may not do this (403)."),
        ({"type": "reply", "status": 404, "body": "enveloped"}, "dbt Cloud has no such object, or hides it"),
        ({"type": "reply", "status": 502, "body": "html"}, "dbt Cloud answers with a server error."),
        ({"type": "truncate"}, "the answer is not dbt Cloud's JSON."),
        ({"type": "drop"}, "the connection was closed before the answer was complete."),
        ({"type": "huge", "size": 34_000_000}, "they are larger than 32 MB; read them in dbt Cloud: http"),
    ],
)
async def test_what_goes_wrong_is_one_sentence(
    shell: Shell, stack: Stack, effect: dict[str, str | int], words: str
) -> None:
    rule = await stack.ask("POST", "/faults", {"kinds": ["get-run"], "effect": effect})
    try:
        ended = await logs(shell, stack)
    finally:
        await stack.ask("DELETE", "/faults")
    assert (ended.code, ended.out) == (1, ""), rule
    assert ended.err.startswith(f"Error: The logs cannot be read: {words}")
    assert len(ended.err.splitlines()) == 1


async def test_a_token_that_is_refused(shell: Shell, stack: Stack) -> None:
    ended = await logs(shell, stack, token="dbtc_of_nobody")
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == "Error: The logs cannot be read: the token is refused (401).\n"


async def test_a_token_is_not_sent_to_a_host_that_only_the_status_names(shell: Shell, stack: Stack) -> None:
    shell.env["DBT_CLOUD_TOKEN"] = stack.token
    ended = await shell.types("logs", "large")
    assert ended.code == 1
    assert "which is not dbt Cloud's: to send your token there, add --host" in ended.err


async def test_a_reader_that_goes_away_ends_it_quietly(shell: Shell, stack: Stack) -> None:
    shell.env["DBT_CLOUD_TOKEN"] = stack.token
    ended = await shell.runs(f"dbtrun logs large --host {stack.url} | head -n 2")
    assert len(ended.out.splitlines()) == 2
    assert ended.err == ""


async def test_the_scenario_has_what_the_tests_look_for(stack: Stack) -> None:
    run = min(await stack.runs(), key=lambda run: int(run["id"]))
    whole = json.dumps(await stack.dbt(f'runs/{run["id"]}/?include_related=["run_steps"]'))
    assert all(secret in whole for secret in SECRETS)
