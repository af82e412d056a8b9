"""What the watcher tells and keeps while something is broken: each test has a system of its own to break."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.controlplane import ControlPlane
from tests.stack import Own, Stack, until


@pytest.fixture
async def stack(plane: ControlPlane, namespace: str, tmp_path: Path) -> AsyncIterator[Stack]:
    async with Stack.up(plane, namespace, tmp_path) as stack:
        yield stack


@pytest.fixture
async def running(stack: Stack) -> Own:
    """An object whose run goes on until it is told to end."""
    own = Own(stack, "a")
    await own.apply("endless")
    await own.reaches("Running")
    return own


async def reachable(own: Own, status: str, reason: str, seconds: float = 60.0) -> None:
    async def told() -> bool:
        condition = await own.condition("Reachable")
        return (condition.get("status"), condition.get("reason")) == (status, reason)

    await until(told, seconds, f"Reachable={status}/{reason}")


async def test_a_rotated_token_is_used_without_a_restart(stack: Stack, running: Own) -> None:
    fresh = stack.token + "f"
    await stack.ask("PUT", "/tokens", {"tokens": [{"token": fresh}]})
    await reachable(running, "False", "Unauthorized")
    await stack.connect(token=fresh)
    await reachable(running, "True", "Answering", 120)
    await running.patch(cancel=True)
    await running.reaches("Cancelled")


async def test_a_restart_of_the_watcher_loses_nothing(stack: Stack, running: Own) -> None:
    other = Own(stack, "b")
    await other.apply("endless")
    await other.reaches("Running")
    assert await stack.watcher.stop() == 0
    await running.finish(10)
    stack.watcher.start()
    await other.finish(20)
    await running.reaches("Succeeded")
    await other.reaches("Failed")
    assert len(await stack.runs()) == 2


async def test_a_server_error_never_reads_as_a_failed_run(stack: Stack, running: Own) -> None:
    await stack.ask("POST", "/faults", {"effect": {"type": "reply", "status": 502, "body": "html"}})
    await reachable(running, "False", "ServerError")
    assert (await running.status())["phase"] == "Running"
    await stack.ask("DELETE", "/faults")
    await running.finish(10)
    await running.reaches("Succeeded", seconds=120)


async def test_a_deleted_object_waits_for_its_cancel_while_dbt_cloud_is_away(stack: Stack, running: Own) -> None:
    await stack.ask(
        "POST", "/faults", {"kinds": ["cancel"], "effect": {"type": "reply", "status": 503, "body": "html"}}
    )
    await stack.delete(running.name)
    await running.reaches("Cancelling", reason="Deleted")
    await stack.ask("DELETE", "/faults")
    await stack.gone(running.name, 120)
    assert await running.run_statuses() == [30]


async def test_a_planted_secret_would_be_found(stack: Stack, running: Own) -> None:
    """The search that every system under test ends with can fail."""
    await stack.kubectl("annotate", "dr", running.name, f"note={stack.token}")
    with pytest.raises(AssertionError, match="/dbtruns"):
        await stack.assert_no_secret_told()
    await stack.kubectl("annotate", "dr", running.name, "note-")
