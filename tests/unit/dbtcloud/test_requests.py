"""What is counted of a request to dbt Cloud."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import httpx
import pytest

from dbtrun.api import Job, Overrides
from tests.unit.dbtcloud import account
from watcher.dbtcloud.client import Client
from watcher.dbtcloud.errors import DbtCloudError
from watcher.dbtcloud.requests import OTHER, Sent, kind_of, outcome_of


async def told(answer: httpx.Response | Exception, ask: str = "poll") -> list[Sent]:
    """What is counted of one call of the client."""

    def dbt_cloud(_request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    sent: list[Sent] = []
    async with Client(account.CONNECTION, transport=httpx.MockTransport(dbt_cloud), observe=sent.append) as client:
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "poll": lambda: client.runs([1]),
            "run": lambda: client.run(1),
            "start": lambda: client.start(1, "", Overrides()),
            "retry": lambda: client.retry(1),
            "cancel": lambda: client.cancel(1),
            "file": lambda: client.artifact(1, "manifest.json"),
            "job": lambda: client.project_of_job(1),
            "names": lambda: client.resolve_job(Job(name="a", project="b", environment="c")),
            "finished": lambda: client.finished_since(account.NOON),
            "slots": lambda: client.count_live(5),
            "account": lambda: client.check(),
        }
        with suppress(DbtCloudError):
            await calls[ask]()
    return sent


@pytest.mark.parametrize(
    ("ask", "kind", "purpose"),
    [
        ("poll", "list_runs", "poll"),
        ("finished", "list_runs", "poll"),
        ("slots", "list_runs", "submit"),
        ("run", "get_run", "poll"),
        ("start", "start", "submit"),
        ("retry", "retry", "submit"),
        ("cancel", "cancel", "cancel"),
        ("file", "get_file", "details"),
        ("job", "get_job", "submit"),
        ("names", "find_job", "submit"),
        ("account", "get_account", "details"),
    ],
)
async def test_every_request_has_a_kind_and_a_purpose(ask: str, kind: str, purpose: str) -> None:
    (sent,) = await told(account.refusal(404, "Not found."), ask)
    assert (sent.kind, sent.purpose, sent.outcome) == (kind, purpose, "not_found")
    assert sent.seconds >= 0


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (account.listing([account.run(1)], pk__in=[1]), "success"),
        (account.refusal(401, "Invalid token."), "unauthorized"),
        (account.refusal(403, "No."), "forbidden"),
        (account.refusal(429, "Slow down."), "rate_limited"),
        (account.refusal(400, "Bad."), "rejected"),
        (httpx.Response(302, headers={"location": "https://elsewhere/"}), "server_error"),
        (httpx.Response(502, text="<html>"), "server_error"),
        (httpx.ConnectError("no route"), "unreachable"),
        (httpx.ReadTimeout("late"), "unreachable"),
        (httpx.Response(200, headers={"content-encoding": "gzip"}, content=b""), "server_error"),
    ],
)
async def test_a_request_is_counted_by_how_it_ended(answer: httpx.Response | Exception, outcome: str) -> None:
    (sent,) = await told(answer)
    assert sent.outcome == outcome


def test_words_are_few_whatever_is_asked_and_answered() -> None:
    assert kind_of("GET", "runs/1/artifacts/a/b/../run/") == "get_file"
    assert kind_of("DELETE", "runs/1/") == OTHER
    assert kind_of("GET", "webhooks/") == OTHER
    assert {outcome_of(status) for status in range(100, 1_000)} == {
        "success", "unauthorized", "forbidden", "not_found", "rate_limited", "rejected", "server_error",
    }  # fmt: skip
