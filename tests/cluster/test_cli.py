"""The command line as people use it: on a real API server, with a watcher and the simulator."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
import yaml

from tests.cluster.shell import Ended, Shell
from tests.controlplane import ControlPlane
from tests.node.documents import commands
from tests.patience import patience
from tests.stack import JOBS, Own, Stack, until
from tests.stack.dbt import ACCOUNT
from tests.stack.mirrors import elsewhere, mirror, mirrored, ready, status
from tests.stack.site import ROOT

pytestmark = pytest.mark.asyncio(loop_scope="module")
NAMESPACE = "command-line"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    await asyncio.to_thread(plane.create_namespace_sync, NAMESPACE)
    async with Stack.up(plane, NAMESPACE, tmp_path_factory.mktemp("cli")) as stack:
        yield stack


@pytest.fixture(scope="module")
def shell(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(stack.plane, tmp_path_factory.mktemp("shell"), NAMESPACE)


async def test_a_run_that_succeeds_is_created_followed_and_listed(shell: Shell, stack: Stack) -> None:
    ended = await shell.types("run", str(JOBS["success"]), "--cause", "typed by hand")
    assert ended.code == 0, ended
    name = ended.out.split()[0].rpartition("/")[2]
    assert ended.out == f"dbtrun.dbtrun.dev/{name} created\n"
    assert f"{name}: Succeeded (RunSucceeded)" in ended.err
    assert "\x1b" not in ended.out + ended.err
    (started,) = [run for run in await stack.runs() if "typed by hand" in run["cause"]]
    listed = await shell.types("get")
    assert listed.out.split()[:3] == ["NAME", "PHASE", "REASON"]
    assert [name, "Succeeded", "RunSucceeded"] in [line.split()[:3] for line in listed.out.splitlines()]
    wide = await shell.types("get", f"dr/{name}", "-o", "wide")
    assert str(started["id"]) in wide.out


async def test_a_run_that_fails_says_why_and_ends_with_its_code(shell: Shell) -> None:
    ended = await shell.types("run", str(JOBS["failure"]), "--name", "broken")
    assert ended.code == 10
    assert "broken: Failed (RunFailed)" in ended.err
    assert "model.shop.orders (error): Database Error: relation does not exist" in ended.err
    described = await shell.types("describe", "broken")
    assert described.code == 0
    for words in (
        "Failed (RunFailed)",
        "What to do:",
        "model.shop.orders (error)",
        "Log of the failed step",
        "Events:",
    ):
        assert words in described.out


async def test_output_for_programs(shell: Shell, stack: Stack) -> None:
    await Own(stack, "for-programs").apply()
    stored = await stack.get("for-programs")
    one = json.loads((await shell.types("get", "for-programs", "-o", "json")).out)
    assert one["metadata"]["uid"] == stored["metadata"]["uid"]
    assert one["spec"] == stored["spec"]
    listed = yaml.safe_load((await shell.types("get", "-o", "yaml")).out)
    assert listed["kind"] == "List"
    assert {"apiVersion": "dbtrun.dev/v1alpha1", "kind": "DbtRun"}.items() <= listed["items"][0].items()
    names = (await shell.types("get", "-o", "name")).out.split()
    assert "dbtrun.dbtrun.dev/for-programs" in names
    everywhere = await shell.types("get", "-A")
    assert everywhere.out.split()[:2] == ["NAMESPACE", "NAME"]
    elsewhere = await shell.types("get", "-n", "default")
    assert elsewhere == Ended(0, "", "No DbtRuns found.\n")


async def test_mirrors_are_listed_and_described(shell: Shell, stack: Stack) -> None:
    await stack.apply(mirror("everything"), mirror("waiting", connectionRef={"name": "none"}))
    await ready(stack, "everything")
    run_id = await elsewhere(stack)
    await until(lambda: _succeeded(stack, f"everything-{run_id}"), 60, "the run appears")
    await until(lambda: _told(stack, "waiting"), 60, "the missing Secret is told")
    listed = (await shell.types("get", "mirrors")).out.splitlines()
    assert [line.split()[:3] for line in listed] == [
        ["NAME", "READY", "CAUGHT-UP"], ["everything", "True", "True"], ["waiting", "False", "Unknown"],
    ]  # fmt: skip
    everywhere = (await shell.types("get", "drm", "-A", "-o", "wide")).out
    assert everywhere.split()[:2] == ["NAMESPACE", "NAME"]
    one = json.loads((await shell.types("get", "drm/everything", "-o", "json")).out)
    assert one["status"]["cursor"] == (await status(stack, "everything"))["cursor"]
    several = yaml.safe_load((await shell.types("get", "mirrors", "-o", "yaml")).out)
    assert [item["kind"] for item in several["items"]] == ["DbtRunMirror", "DbtRunMirror"]
    names = (await shell.types("get", "mirrors", "-o", "name")).out.split()
    assert names == ["dbtrunmirror.dbtrun.dev/everything", "dbtrunmirror.dbtrun.dev/waiting"]
    described = (await shell.types("describe", "mirror", "everything")).out
    assert "Selects:     all jobs" in described
    assert "DbtRuns:     1 (1 Succeeded)" in described
    described = (await shell.types("describe", names[1])).out
    assert "InvalidConnection" in described
    assert "What to do" in described
    completed = await shell.completes("describe", "mirror", "ev")
    assert completed == ["everything"]
    assert await shell.types("get", "mirrors", "-n", "default") == Ended(0, "", "No DbtRunMirrors found.\n")
    await stack.kubectl("delete", "drm", "--all")


async def _succeeded(stack: Stack, name: str) -> bool:
    found = await mirrored(stack, name.partition("-")[0])
    return bool(found.get(name, {}).get("status", {}).get("phase") == "Succeeded")


async def _told(stack: Stack, name: str) -> bool:
    return bool((await status(stack, name)).get("conditions"))


async def test_waiting_has_an_end_and_cancelling_waits_for_dbt_cloud(shell: Shell, stack: Stack) -> None:
    own = Own(stack, "endless")
    await own.apply("endless")
    await own.reaches("Running")
    ended = await shell.types("wait", "endless", "--timeout", "1s")
    assert (ended.code, ended.out) == (124, "")
    assert "Not ended after 1 s: endless." in ended.err
    assert (await own.status())["phase"] == "Running"
    ended = await shell.types("cancel", "endless", "--wait")
    assert ended.code == 0
    assert "endless: cancel requested." in ended.out
    assert (await own.status())["phase"] == "Cancelled"
    assert await own.run_statuses() == [30]
    assert "has already ended: Cancelled" in (await shell.types("cancel", "endless")).err
    assert (await shell.types("wait", "endless", "-q")) == Ended(11, "", "")


async def test_a_failed_run_is_retried_from_its_failure(shell: Shell, stack: Stack) -> None:
    own = Own(stack, "flaky")
    await own.apply("flaky")
    failed = (await own.reaches("Failed"))["runId"]
    ended = await shell.types("retry", "flaky", "--follow")
    assert ended.code == 0, ended
    name = ended.out.split()[0].rpartition("/")[2]
    assert name.startswith("flaky-retry-")
    (resumed,) = [run for run in await stack.runs() if run["retrying_run_id"] == failed]
    assert (await stack.status(name))["runId"] == resumed["id"]


async def test_what_is_not_over_is_not_retried(shell: Shell, stack: Stack) -> None:
    own = Own(stack, "live")
    await own.apply("endless")
    await own.reaches("Running")
    ended = await shell.types("retry", "live")
    assert ended.code == 1
    assert "live has not ended: it is Running. To stop it: dbtrun cancel live" in ended.err
    await own.patch(cancel=True)


@pytest.mark.timeout(1_800)
async def test_the_guide(plane: ControlPlane, tmp_path: Path) -> None:
    """Every command of docs/cli.md, as it stands but for the name of the DbtRun."""
    await asyncio.to_thread(plane.create_namespace_sync, "cli-guide")
    quick = {"queue": 0.1, "start": 0.1, "run": 0.5, "parallel": True}
    scenario = {
        "account": {"id": ACCOUNT},
        "projects": [{"name": "sales", "environments": [{"name": "production"}]}],
        "jobs": [{"id": 98765, "name": "orders", **quick}, {"id": 1, "name": "nightly", **quick}],
    }
    values = {"settings": {"loopbackConnections": True}}
    async with Stack.up(plane, "cli-guide", tmp_path, scenario=scenario, values=values) as stack:
        own = Own(stack, "typed")
        await own.apply(None, job={"id": 98765})
        await own.reaches("Succeeded")
        await stack.apply(mirror("everything"))
        shell = Shell(plane, tmp_path, "cli-guide")
        for command in commands((ROOT / "docs/cli.md").read_text()):
            if not command.startswith("pip "):
                ended = await shell.runs(command.replace("nightly-x7k2p", "typed"))
                assert ended.code == 0, f"{command}\n{ended.out}{ended.err}"
        (tagged,) = [run for run in await stack.runs() if run["job_id"] == 1]
        assert (await stack.dbt(f"runs/{tagged['id']}/"))["status"] == 10


@pytest.mark.parametrize(("choice", "end"), [("cancel", "Cancelled"), ("leave", "Running"), ("ask", "Running")])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupt_does_what_was_chosen(
    shell: Shell, stack: Stack, choice: str, end: str, number: signal.Signals
) -> None:
    """Without a terminal there is nobody to ask, and a run is not cancelled by accident."""
    name = f"interrupt-{choice}-{number}"
    following = await shell.start("run", str(JOBS["endless"]), "--name", name, "--on-interrupt", choice)
    await shell.hears(following, f"{name}: Running")
    following.send_signal(number)
    ended = await shell.ends(following)
    assert "Traceback" not in ended.err
    assert ended.code == (11 if choice == "cancel" else 130)
    assert ((await stack.status(name))["phase"]) == end
    if end == "Running":
        assert f"The run continues. To cancel it: dbtrun cancel {name}" in ended.err
        await stack.patch(name, {"cancel": True})


async def test_a_command_in_the_background_of_a_script_can_be_stopped(shell: Shell, stack: Stack) -> None:
    """Its shell has it ignore SIGINT."""
    following = await shell.start("run", str(JOBS["endless"]), "--name", "behind", interrupts=signal.SIG_IGN)
    await shell.hears(following, "behind: Running")
    following.send_signal(signal.SIGTERM)
    ended = await shell.ends(following)
    assert "Traceback" not in ended.err
    assert ended.code == 130
    await stack.patch("behind", {"cancel": True})


async def test_on_a_terminal_an_interrupt_asks(shell: Shell, stack: Stack) -> None:
    leader, follower = pty.openpty()
    shown = bytearray()
    try:
        following = await shell.start(
            "run", str(JOBS["endless"]), "--name", "asked", stdin=follower, stdout=follower, stderr=follower,
            start_new_session=True,
        )  # fmt: skip
        os.close(follower)
        os.set_blocking(leader, False)

        async def says(words: bytes) -> None:
            async def said() -> bool:
                with contextlib.suppress(OSError):  # nothing yet, or the last has closed its end
                    shown.extend(os.read(leader, 65_536))
                return words in shown

            await until(said, 60, f"{words!r} in {bytes(shown)!r}", pause=0.1)

        await says(b"asked: Running")
        following.send_signal(signal.SIGINT)
        await says(b"Cancel the dbt Cloud run of asked? [y/N]")
        os.write(leader, b"y\n")
        await stack.reaches("asked", "Cancelled")
        await says(b"Cancelled")
        async with asyncio.timeout(patience(60)):
            assert await following.wait() == 11
        assert b"\x1b[" in shown, "a terminal gets colours"
    finally:
        os.close(leader)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["get", "no-such"], "no-such"),
        (["describe", "no-such"], "no-such"),
        (["wait", "no-such"], "There is no DbtRun no-such in the namespace command-line."),
        (["cancel", "no-such"], "no-such"),
        (["run", "1", "-n", "no-such-namespace", "--name", "x"], "no-such-namespace"),
        (["run", "1", "--name", "UPPER"], "UPPER"),
        (["get", "--context", "no-such-context"], "no-such-context"),
        (["get", "--kubeconfig", "/no/such/file"], "/no/such/file"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_one_sentence(shell: Shell, arguments: list[str], words: str) -> None:
    ended = await shell.types(*arguments)
    assert ended.code == 1
    assert words in ended.err
    assert len(ended.err.strip().splitlines()) == 1


async def test_rights_that_are_missing_are_named(shell: Shell, stack: Stack) -> None:
    weak = await stack.plane.kubeconfig_for(NAMESPACE, "default")
    ended = await shell.types("get", "--kubeconfig", str(weak))
    assert ended.code == 1
    assert 'cannot list resource "dbtruns"' in ended.err


async def test_a_deleted_object_ends_the_waiting(shell: Shell, stack: Stack) -> None:
    own = Own(stack, "going")
    await own.apply("endless")
    await own.reaches("Running")
    waiting = await shell.start("wait", "going")
    await shell.hears(waiting, "going: Running")
    await own.delete()
    ended = await shell.ends(waiting)
    assert ended.code in (11, 14), ended
