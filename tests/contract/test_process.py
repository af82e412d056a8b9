"""The simulator as a process: how it starts, what it says, how it dies, what survives."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.patience import patience
from watcher.simulator.scenario import ACCOUNT_ID, JOB_BASE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

JOB = JOB_BASE + 1


@dataclass
class Process:
    popen: subprocess.Popen[str]
    line: str

    @property
    def url(self) -> str:
        return self.line.split()[3].rstrip(",")

    def client(self, ca: Path | None = None) -> httpx.Client:
        verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=str(ca)) if ca else True
        headers = {"Authorization": "Token dbt-simulator-token"}
        api = f"{self.url}/api/v2/accounts/{ACCOUNT_ID}/"
        return httpx.Client(base_url=api, headers=headers, verify=verify, timeout=patience(5))

    def start(self, ca: Path | None = None) -> int:
        with self.client(ca) as client:
            run: int = client.post(f"jobs/{JOB}/run/", json={"cause": "x"}).json()["data"]["id"]
            return run


@pytest.fixture
def launch() -> Iterator[Callable[..., Process]]:
    processes: list[subprocess.Popen[str]] = []

    def launch(*arguments: object) -> Process:
        command = [sys.executable, "-m", "dbtrun", "simulate", "--port", "0", *map(str, arguments)]
        popen = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(popen)
        assert popen.stdout is not None
        return Process(popen, popen.stdout.readline())

    yield launch
    for process in processes:
        process.kill()
        process.communicate(timeout=patience(10))


def test_a_run_and_the_journal_survive_kill_9_at_any_time(launch: Callable[..., Process], tmp_path: Path) -> None:
    state = tmp_path / "state.db"
    known: list[int] = []
    for _ in range(3):
        process = launch("--state", state)
        with process.client() as client:
            assert [run["id"] for run in client.get("runs/").json()["data"]] == known
            journal = client.get(f"{process.url}/_simulator/journal").json()
            assert [entry["run_id"] for entry in journal] == known
        known.append(process.start())
        process.popen.kill()
        process.popen.wait(patience(10))
    assert len(set(known)) == 3


def test_runs_go_on_while_the_process_is_dead(launch: Callable[..., Process], tmp_path: Path) -> None:
    state = tmp_path / "state.db"
    process = launch("--state", state, "--speed", 1000)
    run = process.start()
    process.popen.kill()
    process.popen.wait(patience(10))
    with launch("--state", state).client() as client:
        found = client.get(f"runs/{run}/").json()["data"]
    assert found["status"] == 10
    assert found["created_at"] < found["dequeued_at"] < found["started_at"] < found["finished_at"]


def test_a_job_and_a_clock_that_were_changed_survive(launch: Callable[..., Process], tmp_path: Path) -> None:
    state = tmp_path / "state.db"
    process = launch("--state", state)
    with process.client() as client:
        client.patch(f"{process.url}/_simulator/jobs/{JOB}", json={"outcomes": ["error", "success"], "run": 0})
        client.post(f"{process.url}/_simulator/clock", json={"speed": 50, "offset": 7})
    process.start()
    process.popen.kill()
    process.popen.wait(patience(10))
    again = launch("--state", state)
    again.start()
    with again.client() as client:
        clock = client.get(f"{again.url}/_simulator/state").json()
        client.post(f"{again.url}/_simulator/clock", json={"speed": 1e6})
        statuses = [run["status"] for run in client.get("runs/").json()["data"]]
    assert (clock["speed"], clock["offset"]) == (50, 7)
    assert statuses == [20, 10]


def test_a_state_file_of_another_account_is_refused(launch: Callable[..., Process], tmp_path: Path) -> None:
    state, config = tmp_path / "state.db", tmp_path / "other.yaml"
    launch("--state", state).popen.kill()
    config.write_text("account: {id: 5}")
    other = launch("--state", state, "--config", config)
    assert other.popen.wait(patience(10)) == 2
    assert other.popen.stderr is not None
    assert "belongs to account" in other.popen.stderr.read().splitlines()[-1]


def test_a_state_file_with_runs_of_a_job_that_is_gone_is_refused(
    launch: Callable[..., Process], tmp_path: Path
) -> None:
    state, config = tmp_path / "state.db", tmp_path / "less.yaml"
    process = launch("--state", state)
    process.start()
    process.popen.kill()
    process.popen.wait(patience(10))
    config.write_text("jobs: [{name: only, id: 9}]")
    other = launch("--state", state, "--config", config)
    assert other.popen.wait(patience(10)) == 2
    assert other.popen.stderr is not None
    assert f"runs of job {JOB}, which the scenario lacks" in other.popen.stderr.read().splitlines()[-1]


def test_https_with_a_ca_that_stays_the_same_over_restarts(launch: Callable[..., Process], tmp_path: Path) -> None:
    ca = tmp_path / "tls" / "ca.pem"
    first = launch("--tls-dir", ca.parent)
    assert first.line == f"dbt Cloud simulator: {first.url}, account {ACCOUNT_ID}, CA {ca}\n"
    assert first.url.startswith("https://127.0.0.1:")
    before = ca.read_bytes()
    second = launch("--tls-dir", ca.parent)
    assert second.start(ca)
    assert ca.read_bytes() == before
    assert (ca.parent / "ca.key").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly_even_while_a_request_hangs(launch: Callable[..., Process], number: int) -> None:
    process = launch()
    with process.client() as client:
        client.post(f"{process.url}/_simulator/faults", json={"effect": {"type": "hang"}})
    host, _, port = process.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))) as waiting, process.client() as client:
        waiting.sendall(b"GET /api/v2/accounts/1/runs/ HTTP/1.1\r\nHost: x\r\n\r\n")
        while not client.get(f"{process.url}/_simulator/requests").json()["total"]:
            assert process.popen.poll() is None
        process.popen.send_signal(number)
        assert process.popen.wait(patience(10)) == 0
    assert process.popen.stderr is not None
    assert process.popen.stderr.read() == ""


def test_a_taken_port_is_one_sentence(launch: Callable[..., Process]) -> None:
    port = launch().url.rpartition(":")[2]
    second = launch("--port", port)
    assert second.popen.wait(patience(10)) == 2
    assert second.popen.stderr is not None
    assert "Address already in use; choose another --port." in second.popen.stderr.read().splitlines()[-1]


def test_a_token_from_the_command_line_replaces_all_others_and_is_not_printed(launch: Callable[..., Process]) -> None:
    process = launch("--token", "only-this-one")
    with process.client() as client:
        assert client.get("runs/").status_code == 401
        assert client.get("runs/", headers={"Authorization": "Bearer only-this-one"}).status_code == 200
    assert "only-this-one" not in process.line
