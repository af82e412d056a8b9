"""What `dbtrun logs` prints, and to whom it sends a token."""

from __future__ import annotations

import asyncio
from typing import Any

import click
import pytest

from dbtrun.cli.dbtcloud import DbtCloud, Kind, Reply
from dbtrun.cli.logs import BLOCK, News, _blocks, _connection, _from_dbt_cloud
from dbtrun.connection.secret import Connection, Token
from tests.unit.cli.builders import ago, run


def step(index: int, logs: str, *, over: bool = True, begun: bool = True) -> dict[str, Any]:
    return {
        "index": index, "name": f"step {index}", "logs": logs, "started_at": ago(minutes=2) if begun else None,
        "finished_at": ago(minutes=1) if over else None,
    }  # fmt: skip


def test_only_what_is_new_is_printed_and_only_whole_lines() -> None:
    news = News()
    assert list(news.of_dbt_cloud(1, [step(1, "a\n"), step(2, "b\nhal", over=False), step(3, "", begun=False)])) == [
        "==> 1. step 1", "a", "==> 2. step 2", "b",
    ]  # fmt: skip
    assert list(news.of_dbt_cloud(1, [step(1, "a\n"), step(2, "b\nhalf\n", over=False)])) == ["half"]
    assert list(news.of_dbt_cloud(1, [step(1, "a\n"), step(2, "b\nhalf\nend")])) == ["end"]
    assert list(news.of_dbt_cloud(1, [step(1, "a\n"), step(2, "b\nhalf\nend")])) == []


def test_another_attempt_begins_anew() -> None:
    news = News()
    assert list(news.of_dbt_cloud(1, [step(1, "a")])) == list(news.of_dbt_cloud(2, [step(1, "a")]))


def test_one_step_alone() -> None:
    assert list(News(only=2).of_dbt_cloud(1, [step(1, "a"), step(2, "b")])) == ["==> 2. step 2", "b"]


def test_a_terminal_obeys_nothing_of_a_log() -> None:
    (_, line) = News().of_dbt_cloud(1, [step(1, "\x1b[31mred\x1b]0;owned\x07")])
    assert line == "red"


def test_a_log_keeps_its_shape() -> None:
    assert list(News().of_dbt_cloud(1, [step(1, "\n  indented\n\n    more\n\n")])) == [
        "==> 1. step 1", "", "  indented", "", "    more", "",
    ]  # fmt: skip


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 10 * BLOCK])
def test_a_log_is_searched_in_pieces_of_whole_lines(size: int) -> None:
    text = "".join(f"line {number}\n" for number in range(size // 8)) + "the end"
    pieces = list(_blocks(text, 3))
    assert "".join(pieces) == text[3:]
    assert all(piece.endswith("\n") for piece in pieces[:-1])
    assert all(len(piece) < BLOCK + 100 for piece in pieces)


def test_secrets_are_masked_wherever_they_are() -> None:
    filler = "12:00:01  OK created sql table model analytics.fct_orders [SELECT 1021 in 3.21s]\n" * 1_000
    log = f"{filler}password: hunter2\n{filler}Authorization: Token mine\nset to s3cr3t-of-mine\n"
    told = "\n".join(News().of_dbt_cloud(1, [step(1, log)], "s3cr3t-of-mine"))
    assert [each for each in ("hunter2", "Token mine", "s3cr3t-of-mine") if each in told] == []
    assert told.count("OK created sql table model") == 2_000


def test_the_status_has_the_steps_and_the_end_of_the_failed_log() -> None:
    steps = [
        {"index": 1, "name": "clone", "status": "Success", "startedAt": ago(minutes=3), "finishedAt": ago(minutes=2)}
    ]
    news = News()
    running = [*steps, {"index": 2, "name": "build", "status": "Running", "startedAt": ago(minutes=2)}]
    assert list(news.of_status(run(phase="Running", steps=running))) == [
        "1. clone: Success after 1m",
        "2. build: Running",
    ]
    failed = [*steps, {"index": 2, "name": "build", "status": "Error", "startedAt": ago(minutes=2)}]
    tail = {"index": 2, "name": "build", "logTail": "Database Error\n  no such table"}
    ended = run(phase="Failed", steps=failed, failedStep=tail)
    assert list(news.of_status(ended)) == [
        "2. build: Error", "==> 2. build: the end of its log", "Database Error", "  no such table",
    ]  # fmt: skip
    assert list(news.of_status(ended)) == []


def asked(monkeypatch: pytest.MonkeyPatch, host: str | None, *, named: str) -> str:
    """The host to which the token goes."""
    monkeypatch.setenv("DBT_CLOUD_TOKEN", "dbtc_mine")
    found = asyncio.run(_connection(None, run(accountId=1, host=named), host, secret=False))  # type: ignore[arg-type]
    assert found is not None
    return found.host


def test_a_token_goes_to_dbt_clouds_own_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(monkeypatch, None, named="emea.dbt.com") == "emea.dbt.com"


@pytest.mark.parametrize("named", ["evil.example.com", "dbt.com.evil.example", "127.0.0.1:8580"])
def test_a_token_is_sent_to_no_other_host_that_a_status_names(monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    """Whoever may write a status could name any."""
    with pytest.raises(click.ClickException, match="which is not dbt Cloud's: to send your token there, add --host"):
        asked(monkeypatch, None, named=named)
    assert asked(monkeypatch, "dbt.example.com", named=named) == "dbt.example.com"


def test_without_a_token_dbt_cloud_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DBT_CLOUD_TOKEN", raising=False)
    assert asyncio.run(_connection(None, run(accountId=1, host="dbt.com"), None, secret=False)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "words"),
    [(Kind.ANSWERED, "does not contain what was asked for"), (Kind.TOO_LARGE, "read them in dbt Cloud")],
)
async def test_why_the_logs_cannot_be_read_is_told(kind: Kind, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(*_: object, **__: object) -> Reply:
        return Reply(kind=kind, data="odd")

    monkeypatch.setattr(DbtCloud, "ask", ask)
    connection = Connection(host="dbt.com", tls=True, account_id=1, token=Token("dbtc_mine"))
    with pytest.raises(click.ClickException, match=f"The logs cannot be read: .*{words}"):
        await _from_dbt_cloud(connection, run(runId=5), News(None))
