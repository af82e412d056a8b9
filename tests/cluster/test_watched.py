"""Who reads a run's steps as they come gets them soon, on a real API server; and what cannot be reached is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from dbtrun.api import WATCHED_ANNOTATION
from tests.cluster.shell import Shell
from tests.controlplane import ControlPlane
from tests.stack import Own, Stack, until

pytestmark = pytest.mark.asyncio(loop_scope="module")
NAMESPACE = "watched"
PAST = "2026-01-01T00:00:00Z"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    await asyncio.to_thread(plane.create_namespace_sync, NAMESPACE)
    async with Stack.up(plane, NAMESPACE, tmp_path_factory.mktemp("watched")) as stack:
        yield stack


@pytest.fixture(scope="module")
def shell(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(stack.plane, tmp_path_factory.mktemp("shell"), NAMESPACE)


async def looks(stack: Stack) -> int:
    """Requests for single runs: none but a look at its steps asks for one that is live."""
    kinds: dict[str, int] = (await stack.ask("GET", "/requests"))["kinds"]
    return kinds.get("get-run", 0)


async def running(stack: Stack, name: str) -> Own:
    own = Own(stack, name)
    await own.apply("endless")
    await own.reaches("Running")
    return own


async def annotation(own: Own) -> str | None:
    metadata = (await own.stack.get(own.name))["metadata"]
    found: str | None = metadata.get("annotations", {}).get(WATCHED_ANNOTATION)
    return found


async def test_nobody_watching_costs_nothing_and_whoever_follows_the_logs_gets_the_steps(
    stack: Stack, shell: Shell
) -> None:
    own = await running(stack, "followed")
    await asyncio.sleep(10)
    assert (await looks(stack), await annotation(own)) == (0, None)
    following = await shell.start("logs", "-f", own.name)

    async def read() -> bool:
        assert following.stdout is not None
        return (await following.stdout.readline()).startswith(b"1. ")

    await until(read, 45, "the first step is printed, which nobody watching would see after a minute")
    assert await annotation(own) is not None
    before = await looks(stack)

    async def again() -> bool:
        return await looks(stack) > before

    await until(again, 60, "it is looked at again")
    following.kill()
    await following.wait()
    await stack.kubectl("annotate", "dr", own.name, f"{WATCHED_ANNOTATION}={PAST}", "--overwrite")
    await asyncio.sleep(2)
    before = await looks(stack)
    await asyncio.sleep(15)
    assert await looks(stack) <= before + 1, "the time has passed"
    await own.delete()


async def test_who_may_only_look_reads_what_is_there(stack: Stack, shell: Shell) -> None:
    own = await running(stack, "seen")
    binding = ("create", "rolebinding", "seeing", "--clusterrole=view", f"--serviceaccount={NAMESPACE}:default")
    await stack.kubectl(*binding)
    weak = await stack.plane.kubeconfig_for(NAMESPACE, "default")
    following = await shell.start("logs", "-f", own.name, "--kubeconfig", str(weak))
    await asyncio.sleep(10)
    assert following.returncode is None, "it reads on"
    assert await annotation(own) is None
    await own.finish(10)
    ended = await shell.ends(following)
    assert ended.code == 0, ended
    assert "Traceback" not in ended.err
    await own.delete()


@pytest.mark.parametrize("spec", [{}, {"runId": 4711}], ids=["job", "run"])
async def test_what_is_refused_is_written_once_however_often_it_is_tried(stack: Stack, spec: dict[str, int]) -> None:
    """Each try of a refused token is answered anew; the object says so once."""
    await stack.apply(stack.secret("refused", stack.keys("dbtc_" + "0" * 40)))
    own = Own(stack, f"refused-{'-'.join(spec) or 'job'}".lower())
    await own.apply("success", connectionRef={"name": "refused"}, **spec)

    async def told() -> bool:
        return (await own.condition("Reachable")).get("reason") == "Unauthorized"

    await until(told, 60, "the token is told to be refused")
    await asyncio.sleep(2)
    written = (await stack.get(own.name))["metadata"]["resourceVersion"]
    tried = await unauthorized(stack)

    async def tried_again() -> bool:
        return await unauthorized(stack) > tried

    await until(tried_again, 180, "the token is tried again")
    await asyncio.sleep(2)
    now = await stack.get(own.name)
    assert now["metadata"]["resourceVersion"] == written, now["status"]
    await own.delete()


async def unauthorized(stack: Stack) -> int:
    statuses: dict[str, int] = (await stack.ask("GET", "/requests"))["statuses"]
    return statuses.get("401", 0)
