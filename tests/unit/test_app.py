"""The watcher as a whole, with no API server to reach: no part of it stops silently."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from dbtrun.api import MIRROR_LABEL, DbtRun, Metadata, Spec
from dbtrun.connection.secret import Connection, Token
from tests.stack.waiting import until
from tests.unit.world.apiserver import kubeconfig as written
from watcher.app import LEADERLESS_SECONDS, STUCK_SECONDS, PartEnded, Watcher, listen, reached_at
from watcher.cluster.access import ClusterAccess
from watcher.lifecycle.facts import Observation, RunFacts, RunState
from watcher.settings import Settings
from watcher.webhooks.hint import Hint, Kind

ROOT = Path(__file__).parents[2]
Work = Callable[[], Awaitable[None]]


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Path:
    """Of an API server that refuses every connection."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    return written(tmp_path, f"http://127.0.0.1:{port}")


@pytest.fixture
async def watcher(kubeconfig: Path) -> AsyncIterator[Watcher]:
    access = await ClusterAccess.load(kubeconfig)
    yield Watcher(Settings(listen="127.0.0.1:0"), access)
    await access.close()


async def raises() -> None:
    raise RuntimeError("boom")


async def returns() -> None:
    pass


async def is_cancelled_from_within() -> None:
    raise asyncio.CancelledError


PARTS = ["stream", "accounts", "sources", "events", "_leader"]
ENDS: dict[Work, str] = {
    raises: "RuntimeError: boom",
    returns: "it had nothing more to do",
    is_cancelled_from_within: "CancelledError",
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
async def test_the_end_of_any_part_ends_the_watcher_and_names_it(
    watcher: Watcher, part: str, end: Work, caplog: pytest.LogCaptureFixture
) -> None:
    getattr(watcher, part).run = lambda *_arguments: end()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with asyncio.timeout(20):
            with pytest.raises(ExceptionGroup) as ended:
                await watcher.run(listener, asyncio.Event())
    (why,) = ended.value.exceptions
    assert isinstance(why, PartEnded)
    assert ENDS[end] in str(why)
    (told,) = [record.message for record in caplog.records if record.levelno == logging.CRITICAL]
    assert ENDS[end] in told


def test_the_process_says_in_one_line_which_part_ended_and_exits_with_a_code(kubeconfig: Path) -> None:
    program = """
import sys
from dbtrun.cli.main import main
from watcher.dbtcloud.accounts import Accounts

async def broken(self):
    raise RuntimeError("boom")

Accounts.run = broken
main(sys.argv[1:], prog_name="dbtrun")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, "watcher", "--kubeconfig", str(kubeconfig), "--listen", "127.0.0.1:0"],
        capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
    )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == "Error: The part poller of the watcher ended: RuntimeError: boom"
    assert sum("boom" in line for line in ended.stderr.splitlines()) == 2, "the log has it once, with its traceback"


def test_the_garbage_collector_is_at_work_but_not_on_modules() -> None:
    program = """
import gc
import watcher.app
from dbtrun.cli.main import main

async def watch(settings):
    print(gc.isenabled(), gc.get_freeze_count() > 50_000)

watcher.app.watch = watch
main(["watcher"])
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT
    )
    assert ended.stdout == "True True\n"


async def test_every_part_is_asked_for_its_silence(watcher: Watcher) -> None:
    assert {part.name: part.limit for part in watcher.vitals.parts} == {
        "watch": STUCK_SECONDS,
        "poller": STUCK_SECONDS + 30,
        "reconciler": STUCK_SECONDS + 30,
        "leader": LEADERLESS_SECONDS,
    }
    assert watcher.vitals.late() == {}


@pytest.mark.parametrize("name", ["watch", "poller", "reconciler", "leader"])
async def test_a_silent_part_fails_the_probe(watcher: Watcher, name: str) -> None:
    watcher.vitals.parts = [
        replace(part, silent=lambda: 1_000.0) if part.name == name else part for part in watcher.vitals.parts
    ]
    assert list(watcher.checks.vitals.late()) == [name]


async def test_an_api_server_that_is_away_is_no_reason_to_restart(watcher: Watcher) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = asyncio.Event()
        running = asyncio.create_task(watcher.run(listener, stop))

        async def told() -> str | None:
            return watcher.stream.problem

        await until(told)
        assert watcher.vitals.late() == {}
        assert "No answer from" in str(watcher.checks.ready())
        stop.set()
        await running


@pytest.mark.parametrize("address", [":0", "[::]:0"])
def test_every_address_is_ipv4_and_ipv6(address: str) -> None:
    with listen(Settings(listen=address).address, "listen") as listener:
        port = listener.getsockname()[1]
        for own in ("127.0.0.1", "::1") if socket.has_dualstack_ipv6() else ("127.0.0.1",):
            socket.create_connection((own, port), timeout=5).close()


def test_an_address_of_one_family_stays_one() -> None:
    with listen(("127.0.0.1", 0), "listen") as listener:
        assert listener.family is socket.AF_INET


async def test_a_webhook_serves_exactly_the_connection_of_its_secret(watcher: Watcher) -> None:
    mine = Connection(host="cloud.getdbt.com", account_id=1, token=Token("mine"))
    account = watcher.accounts.use("uid", mine)
    account.follow("uid", 7, 60.0)
    hint = Hint(key="k", kind=Kind.COMPLETED, account_id=1, job_id=None, run_id=7)
    other = Connection(host="cloud.getdbt.com", account_id=1, token=Token("somebody else's"))
    assert watcher._hinted(mine, hint)
    assert not watcher._hinted(other, hint), "it may claim the account, and does not have its token"
    assert not watcher._hinted(mine, replace(hint, account_id=2))
    assert not watcher._hinted(mine, replace(hint, run_id=8)), "nobody waits for it"
    assert not watcher._hinted(mine, replace(hint, run_id=None))


async def test_the_end_is_the_first_status_of_a_run_that_others_started(watcher: Watcher) -> None:
    """The watch may bring its object before the answer to the creation: a status without the end is one too many."""
    ended = RunFacts(run_id=7, account_id=1, job_id=1, state=RunState.SUCCESS)
    observation = Observation(run=ended, at=watcher._clock())
    watcher._acting = True
    with watcher.objects.coming("data", "all-7", observation):
        ours, of_people, later = shows_7("all-7"), shows_7("all-7", mirrored=False), shows_7("all-8")
        for run, foreseen in ((ours, observation), (of_people, None), (later, None)):
            watcher.mirror.take(run)
            watcher.wake(run.uid)
            assert watcher.knowledge.of(run.uid).observation is foreseen
    late = shows_7("all-9")
    watcher._mirrored(late, observation)
    assert watcher.knowledge.of(late.uid).observation is observation
    await watcher.reconciler.stop(0.0)


def shows_7(name: str, *, mirrored: bool = True) -> DbtRun:
    labels = {MIRROR_LABEL: "all"} if mirrored else {}
    metadata = Metadata(name=name, namespace="data", uid=f"{name}-{mirrored}", resource_version="1", labels=labels)
    return DbtRun(metadata=metadata, spec=msgspec.convert({"runId": 7}, Spec))


@pytest.mark.parametrize(
    ("pod", "listens", "reached"),
    [
        ("10.0.0.5", ":8081", "10.0.0.5:8081"),
        ("fd00::5", ":8081", "[fd00::5]:8081"),
        ("", "127.0.0.1:8081", "127.0.0.1:8081"),
        ("", ":8081", ""),
        ("10.0.0.5", "", ""),
    ],
)
def test_where_other_watchers_reach_this_one(
    pod: str, listens: str, reached: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POD_IP", pod)
    assert reached_at(Settings(webhooks_listen=listens)) == reached


def test_kopf_is_not_imported_before_the_watcher_begins() -> None:
    """It is, in a thread of its own, once what has to be started is listed: importing it takes long."""
    code = "import sys, watcher.app; sys.exit('kopf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
