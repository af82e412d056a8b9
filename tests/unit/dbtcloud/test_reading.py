"""What is read of single things, and how an error reads to people."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from dbtrun.api import Reason, Results
from tests.unit.dbtcloud import account
from watcher.clock import clock_offset
from watcher.dbtcloud import errors
from watcher.dbtcloud.budget import Budget
from watcher.dbtcloud.client import Client
from watcher.lifecycle.facts import RunFacts, RunState, StepFacts


async def read(reply: httpx.Response | Exception, *, steps: bool = False) -> RunFacts:
    observation = await account.client(account.answering(reply)).run(1, steps=steps)
    assert observation.run is not None
    return observation.run


async def fail(reply: httpx.Response | Exception) -> errors.DbtCloudError:
    with pytest.raises(errors.DbtCloudError) as caught:
        await account.client(account.answering(reply)).run(1)
    return caught.value


async def test_a_run_is_read_with_its_times_in_utc() -> None:
    run = await read(
        account.envelope(
            account.run(
                1,
                20,
                created_at="2024-07-03 13:59:00.653171+00:00",
                started_at="2024-07-03 15:59:01+02:00",
                finished_at="2024-07-03T14:00:00Z",
                status_message="\x1b[31mIt failed.\x1b[0m",
                can_retry=True,
                retry_not_supported_reason="RETRY_UNSUPPORTED_CMD",
            )
        )
    )
    assert run == RunFacts(
        run_id=1,
        account_id=account.ACCOUNT,
        job_id=99,
        project_id=7,
        environment_id=8,
        state=RunState.ERROR,
        message="It failed.",
        url="https://cloud.getdbt.com/deploy/4242/projects/7/runs/1/",
        can_retry=True,
        retry_refusal="RETRY_UNSUPPORTED_CMD",
        created_at=datetime(2024, 7, 3, 13, 59, 0, 653171, tzinfo=UTC),
        started_at=datetime(2024, 7, 3, 13, 59, 1, tzinfo=UTC),
        finished_at=datetime(2024, 7, 3, 14, 0, tzinfo=UTC),
    )


async def test_a_run_of_nulls_is_still_a_run() -> None:
    keys = {"id", "account_id", "status", "job_definition_id"}
    nulls = {key: None for key in account.run(1) if key not in keys}
    run = await read(account.envelope(account.run(1, 2) | nulls))
    assert (run.state, run.message, run.url, run.created_at) == (RunState.STARTING, "", None, None)


async def test_numbers_may_be_text() -> None:
    run = await read(account.envelope(account.run(1) | {"id": "1", "job_definition_id": "70403110257794"}))
    assert run.job_id == 70403110257794


@pytest.mark.parametrize("text", ["yesterday", "0001-01-01 00:00:00+14:00", "2024-13-01", 17])
async def test_a_time_that_cannot_be_read_does_not_hide_the_state(text: Any) -> None:
    run = await read(account.envelope(account.run(1, 10, finished_at=str(text))))
    assert (run.state, run.finished_at) == (RunState.SUCCESS, None)


@pytest.mark.parametrize(
    "href",
    [
        "javascript:alert(1)",
        "https://cloud.getdbt.com/" + "y" * 600,
        "https://x\n.example",
        "//x",
        None,
        "https://cloud.getdbt.com@evil.example/x",
        "https://cloud.getdbt.com.evil.example/x",
        "https://cloud.getdbt.com:8443/x",
        "http://cloud.getdbt.com/x",
        "https://evil.example/deploy/4242/projects/7/runs/1/",
    ],
)
async def test_an_address_that_is_none_is_replaced_by_the_known_one(href: str | None) -> None:
    run = await read(account.envelope(account.run(1, href=href)))
    assert run.url == "https://cloud.getdbt.com/deploy/4242/projects/7/runs/1/"


async def test_an_unknown_status_that_is_in_progress_is_running() -> None:
    assert (await read(account.envelope(account.run(1, 4, in_progress=True)))).state is RunState.RUNNING


async def test_an_unknown_status_is_never_taken_for_an_end() -> None:
    error = await fail(account.envelope(account.run(1, 40, in_progress=False, status_humanized="Archived")))
    assert error.reason is Reason.SERVER_ERROR
    assert "status 40 (Archived)" in error.message


async def test_steps_are_read_when_asked_for() -> None:
    steps = [
        {"index": 1, "name": "Clone", "status": 10, "status_humanized": "Success", "started_at": None, "logs": "…"},
        {"index": 2, "name": "dbt build", "status": 3, "status_humanized": "Running", "finished_at": None},
    ]
    recorder = account.Recorder(account.answering(account.envelope(account.run(1, run_steps=steps))))
    observation = await account.client(recorder).run(1, steps=True)
    assert observation.run is not None
    assert observation.run.steps is not None
    assert [(step.index, step.name, step.status) for step in observation.run.steps] == [
        (1, "Clone", "Success"),
        (2, "dbt build", "Running"),
    ]
    assert recorder.params() == {"include_related": '["run_steps"]'}


async def test_steps_that_were_not_asked_for_are_unknown_and_not_none() -> None:
    assert (await read(account.envelope(account.run(1, run_steps=[])))).steps is None
    assert (await read(account.envelope(account.run(1, run_steps=[])), steps=True)).steps == ()


async def test_a_run_that_dbt_cloud_does_not_know_is_no_run() -> None:
    reply = account.refusal(404, "The requested resource was not found.")
    assert (await account.client(account.answering(reply)).run(1)).run is None


async def test_a_404_of_something_else_says_nothing_about_the_run() -> None:
    assert (await fail(account.page_of_a_proxy(404))).reason is Reason.SERVER_ERROR


async def test_another_run_than_asked_for_is_not_believed() -> None:
    assert isinstance(await fail(account.envelope(account.run(2))), errors.ServerFault)


@pytest.mark.parametrize(
    ("reply", "reason", "message"),
    [
        (account.refusal(401, "Invalid token."), Reason.UNAUTHORIZED, "answered 401: Invalid token."),
        (account.refusal(403, "Token is not scoped."), Reason.FORBIDDEN, "answered 403: Token is not scoped."),
        (account.refusal(400, "Bad.", {"limit": "≤ 100"}), Reason.SUBMISSION_REJECTED, "400: Bad. (limit: ≤ 100)"),
        (account.page_of_a_proxy(502), Reason.SERVER_ERROR, "answered 502: not in dbt Cloud's own words"),
        (httpx.Response(500, json={"detail": "secret"}), Reason.SERVER_ERROR, "not in dbt Cloud's own words"),
        (
            httpx.Response(403, json={"kind": "Status", "status": "Failure", "message": "secret"}),
            Reason.FORBIDDEN,
            "not in dbt Cloud's own words",
        ),
        (account.refusal(401, ""), Reason.UNAUTHORIZED, "answered 401: no message"),
        (httpx.Response(503), Reason.SERVER_ERROR, "answered 503: not in dbt Cloud's own words"),
        (
            httpx.Response(200, text="x" * 9000),
            Reason.SERVER_ERROR,
            "answered 200 with something that is not dbt Cloud's JSON (9,000 bytes)",
        ),
        (
            httpx.RemoteProtocolError("illegal status line: bytearray(b'SSH-2.0-secret')"),
            Reason.UNREACHABLE,
            "failed: the reply is not valid HTTP",
        ),
        (
            httpx.RemoteProtocolError("Server disconnected without sending a response."),
            Reason.UNREACHABLE,
            "failed: Server disconnected without sending a response.",
        ),
        (httpx.ReadTimeout(""), Reason.UNREACHABLE, "failed: nothing came back within 25 seconds"),
        (httpx.ConnectTimeout(""), Reason.UNREACHABLE, "failed: no connection within 10 seconds"),
        (httpx.ConnectError("Name or service\nnot known"), Reason.UNREACHABLE, "failed: Name or service\nnot known"),
        (httpx.ReadError(""), Reason.UNREACHABLE, "failed: ReadError"),
        (
            httpx.Response(301, headers={"Location": "https://AB1.us1.dbt.com/api?x=1"}),
            Reason.UNREACHABLE,
            "redirects to ab1.us1.dbt.com, which is not followed: is `host` of the connection the right one?",
        ),
        (
            httpx.Response(302, headers={"Location": "/login"}),
            Reason.UNREACHABLE,
            "is `host` of the connection the right one?",
        ),
    ],
)
async def test_an_error_is_one_short_sentence(reply: httpx.Response | Exception, reason: Reason, message: str) -> None:
    error = await fail(reply)
    assert error.reason is reason
    assert error.message.startswith("GET /runs/1/ at cloud.getdbt.com ")
    assert error.message.endswith(message)
    assert len(error.message) < 400


async def test_a_redirect_is_not_followed() -> None:
    recorder = account.Recorder(account.answering(httpx.Response(307, headers={"Location": "https://evil.example/"})))
    with pytest.raises(errors.Unreachable):
        await account.client(recorder).run(1)
    assert [request.url.host for request in recorder.requests] == ["cloud.getdbt.com"]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ({"Retry-After": "17"}, 17),
        ({"Retry-After": "Sun, 01 Mar 2026 12:01:00 GMT"}, 60),
        ({"Retry-After": "Sun, 01 Mar 2026 11:00:00 GMT"}, 1),
        ({"Retry-After": "0"}, 1),
        ({"Retry-After": "999999999"}, 3600),
        ({"Retry-After": "soon"}, 300),
        ({"x-rate-limit-retry-after-seconds": "42"}, 42),
        ({}, 300),
    ],
)
async def test_a_rate_limit_says_how_long_to_wait(header: dict[str, str], seconds: float) -> None:
    error = await fail(account.refusal(429, "Slow down.", **header))
    assert isinstance(error, errors.RateLimited)
    assert error.retry_after == seconds


async def test_every_request_carries_token_and_agent_and_spends_the_budget() -> None:
    budget = Budget()
    recorder = account.Recorder(account.answering(account.envelope(account.run(1))))
    await account.client(recorder, budget=budget).run(1)
    request = recorder.requests[0]
    assert request.headers["Authorization"] == f"Token {account.SECRET}"
    assert request.headers["User-Agent"].startswith("dbtrun/")
    assert str(request.url) == "https://cloud.getdbt.com/api/v2/accounts/4242/runs/1/"
    assert budget.spent.total() == 1


async def test_cancel_may_be_repeated_and_tells_when_it_is_refused() -> None:
    recorder = account.Recorder(
        account.answering(account.envelope(account.run(1, 30)), account.refusal(400, "Run is already finished."))
    )
    cloud = account.client(recorder)
    await cloud.cancel(1)
    with pytest.raises(errors.Rejected):
        await cloud.cancel(1)
    assert recorder.paths == ["/api/v2/accounts/4242/runs/1/cancel/"] * 2
    assert {request.method for request in recorder.requests} == {"POST"}


async def test_the_account_can_be_checked() -> None:
    recorder = account.Recorder(account.answering(account.envelope({"id": 4242, "name": "Acme", "plan": "x"})))
    info = await account.client(recorder).check()
    assert (info.id, info.name, recorder.paths) == (4242, "Acme", ["/api/v2/accounts/4242/"])


def dbt_step(index: int, command: str) -> StepFacts:
    name = f"Invoke dbt with `{command}`"
    return StepFacts(index=index, name=name, state=20, status="Error", started_at=account.NOON)


async def test_the_failed_step_has_the_end_of_its_log_and_no_other_has_one() -> None:
    steps = [
        {"index": 1, "status": 10, "name": "Clone git repository", "logs": "Cloning"},
        {"index": 2, "status": 20, "name": "Invoke dbt with `dbt run --vars '{\"token\": \"abc123def\"}'`",
         "logs": f"\x1b[31mRuntime Error\x1b[0m\r\n  password=hunter2hunter2\n  {account.SECRET} is no profile\n"},
        {"index": 3, "status": 30, "name": "Invoke dbt with `dbt test`", "logs": "never"},
    ]  # fmt: skip
    told = (await read(account.envelope(account.run(1, 20, run_steps=steps)), steps=True)).steps
    assert told is not None
    assert [step.log for step in told] == ["", "Runtime Error\n  password=***\n  *** is no profile", ""]
    assert told[1].name == "Invoke dbt with `dbt run --vars '{\"token\": ***}'`"


@pytest.mark.parametrize("status", [3, 10])
async def test_a_run_that_did_not_fail_has_no_logs(status: int) -> None:
    steps = [{"index": 1, "status": 20, "name": "dbt source freshness", "logs": "late"}]
    told = (await read(account.envelope(account.run(1, status, run_steps=steps)), steps=True)).steps
    assert told is not None
    assert told[0].log == ""


@pytest.mark.parametrize(
    ("logs", "told"),
    [
        ({}, ""),
        ({"logs": None}, ""),
        ({"logs": [1]}, ""),
        ({"logs": {"a": "b"}}, ""),
        ({"logs": "", "debug_logs": "from the debug log"}, "from the debug log"),
        ({"logs": "x" * 3_000_000}, ""),
        ({"logs": "line\n" * 600_000 + "fatal: last"}, "fatal: last"),
    ],
)
async def test_a_log_of_any_shape_is_short_text(logs: dict[str, Any], told: str) -> None:
    steps = [{"index": 1, "status": 20, "name": "Clone git repository"} | logs]
    told_steps = (await read(account.envelope(account.run(1, 20, run_steps=steps)), steps=True)).steps
    assert told_steps is not None
    assert told_steps[0].log.endswith(told)
    assert len(told_steps[0].log) <= 4_000


async def test_results_count_nodes_and_name_the_first_that_failed() -> None:
    nodes = [
        {"status": "success", "unique_id": "model.a", "message": "OK"},
        {"status": "error", "unique_id": "model.b", "message": "\x1b[31mDatabase Error\x1b[0m\x07 in b\n" + "x" * 900},
        {"status": "fail", "unique_id": "test.c", "message": "Got 3 results"},
        {"status": "skipped", "unique_id": "model.d", "message": None},
    ]
    recorder = account.Recorder(account.answering(httpx.Response(200, json={"metadata": {}, "results": nodes})))
    results = await account.client(recorder).results(1, [dbt_step(4, "dbt build")])
    assert results is not None
    assert results.counts == {"success": 1, "error": 1, "fail": 1, "skipped": 1}
    assert [(node.unique_id, node.status) for node in results.failures] == [("model.b", "error"), ("test.c", "fail")]
    assert results.failures[0].message.startswith("Database Error in b\nxxx")
    assert len(results.failures[0].message) == 500
    assert recorder.paths == ["/api/v2/accounts/4242/runs/1/artifacts/run_results.json"]
    assert recorder.params() == {"step": "4"}


async def test_results_are_bounded_whatever_comes() -> None:
    nodes = [{"status": f"odd {number}", "unique_id": "m" * 999} for number in range(500)]
    nodes += [{"status": "runtime error", "unique_id": "m" * 999, "message": "y" * 9999}] * 500
    results = await account.client(account.answering(httpx.Response(200, json={"results": nodes}))).results(1)
    assert results is not None
    assert (len(results.counts), len(results.failures), sum(results.counts.values())) == (21, 20, 1000)
    assert max(len(node.unique_id) + len(node.message) for node in results.failures) <= 700


@pytest.mark.parametrize(
    "reply",
    [
        httpx.Response(404, text="Not found"),
        account.refusal(404, "Not found."),
        httpx.Response(200, html="<html>"),
        httpx.Response(200, json={"results": 5}),
    ],
)
async def test_results_that_are_not_there_are_none(reply: httpx.Response) -> None:
    assert await account.client(account.answering(reply)).results(1) is None


async def test_results_that_cannot_be_had_now_are_an_error() -> None:
    with pytest.raises(errors.ServerFault):
        await account.client(account.answering(account.page_of_a_proxy(502))).results(1)


async def test_a_run_without_nodes_has_empty_results() -> None:
    reply = httpx.Response(200, json={"results": []})
    assert await account.client(account.answering(reply)).results(1) == Results(counts={})


async def test_a_file_is_read_as_it_is() -> None:
    recorder = account.Recorder(account.answering(httpx.Response(200, content=b"select\xff 1\r\n")))
    assert await account.client(recorder).artifact(1, "compiled/my shop/a?.sql") == b"select\xff 1\r\n"
    assert recorder.requests[0].url.raw_path == (b"/api/v2/accounts/4242/runs/1/artifacts/compiled/my%20shop/a%3F.sql")


async def test_a_file_that_is_not_there_is_none() -> None:
    assert await account.client(account.answering(account.refusal(404, "Not found."))).artifact(1, "a.json") is None


async def test_a_file_that_is_larger_than_allowed_is_given_up() -> None:
    cloud = account.client(account.answering(httpx.Response(200, content=b"123456")))
    assert await cloud.artifact(1, "a.json", 6) == b"123456"
    with pytest.raises(errors.TooLarge):
        await cloud.artifact(1, "a.json", 5)


async def test_a_file_that_cannot_be_had_now_is_an_error() -> None:
    with pytest.raises(errors.ServerFault):
        await account.client(account.answering(account.page_of_a_proxy(502))).artifact(1, "a.json")


class Dripping(httpx.AsyncByteStream):
    """A body that never ends, a byte every ten seconds."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(10)
            yield b" "


@pytest.mark.looptime
async def test_a_reply_that_drips_is_given_up() -> None:
    error = await fail(httpx.Response(200, stream=Dripping()))
    assert error.message.endswith("was not answered within 30 seconds")


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip", "deflate", "br", "zstd", "identity, gzip", "GZIP"])
async def test_a_compressed_reply_is_refused_before_it_is_decompressed(encoding: str) -> None:
    bomb = gzip.compress(bytes(33 * 2**20))
    reply = httpx.Response(200, stream=httpx.ByteStream(bomb), headers={"Content-Encoding": encoding})
    recorder = account.Recorder(account.answering(reply))
    with pytest.raises(errors.ServerFault, match="compressed body"):
        await account.client(recorder).run(1)
    assert recorder.requests[0].headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(("size", "many"), [(9 * 2**20, 1), (1, 20_000)], ids=["bytes", "pieces"])
async def test_a_reply_without_end_is_given_up(size: int, many: int) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(many):
            yield b" " * size

    error = await fail(httpx.Response(200, content=endless()))
    assert error.reason is Reason.SERVER_ERROR
    assert "more than 8,388,608 bytes" in error.message or "too many pieces" in error.message


async def test_the_end_of_a_long_error_is_not_read() -> None:
    words = account.refusal(401, "Invalid token.").content
    error = await fail(httpx.Response(401, content=words.ljust(10 * 2**20)))
    assert isinstance(error, errors.Unauthorized)


NESTED = b"[" * 200_000 + b"]" * 200_000


@pytest.mark.parametrize(
    "reply",
    [
        httpx.Response(200, content=b'{"x":' + NESTED + b',"data":[]}'),
        httpx.Response(200, content=NESTED),
        httpx.Response(400, content=b'{"status":{"code":400},"data":' + NESTED[190_000:210_000] + b"}"),
        httpx.Response(200, content=b'{"data":{"id":' + b"1" * 5_000 + b"}}"),
        httpx.Response(200, content=b'{"data":{"id":NaN,"account_id":Infinity,"status":1}}'),
        httpx.Response(200, content=b"\xff\xfe{}"),
        account.envelope(account.run(-1)),
        account.envelope(account.run(2**63)),
        account.envelope(account.run(1, 2**62)),
    ],
    ids=["nested", "nested alone", "nested in an error", "5000 digits", "NaN", "UTF-16", "negative", "great", "status"],
)  # fmt: skip
async def test_what_no_honest_reply_says_is_a_fault_of_the_server(reply: httpx.Response) -> None:
    assert (await fail(reply)).reason is Reason.SERVER_ERROR


async def test_numbers_times_and_steps_are_clamped_where_they_come_in() -> None:
    step = {"index": 2**62, "status": -5, "name": "x" * 500, "started_at": "9999-12-31T23:59:59-23:59"}
    odd = {"project_id": 2**64 - 1, "environment_id": -4, "retrying_run_id": 0, "run_steps": [step] * 5_000}
    times = {
        "created_at": "0001-01-01T00:00:00+23:59",
        "started_at": "9999-12-31 23:59:59",
        "finished_at": "1" * 10_000,
    }
    facts = await read(account.envelope(account.run(1) | odd | times), steps=True)
    assert (facts.project_id, facts.environment_id, facts.retrying_run_id) == (None, None, None)
    assert (facts.created_at, facts.started_at, facts.finished_at) == (None, None, None)
    assert facts.steps is not None
    assert len(facts.steps) == 1_000
    assert (facts.steps[0].index, facts.steps[0].state, facts.steps[0].started_at) == (10_000, 0, None)


async def test_cookies_are_not_kept() -> None:
    reply = account.envelope(account.run(1))
    reply.headers["Set-Cookie"] = "a=b; Path=/; Domain=cloud.getdbt.com"
    recorder = account.Recorder(account.answering(reply))
    cloud = account.client(recorder)
    await cloud.run(1)
    await cloud.run(1)
    assert "Cookie" not in recorder.requests[1].headers


async def test_a_page_with_more_runs_than_asked_for_is_refused() -> None:
    with pytest.raises(errors.ServerFault, match="101 items where 100 were asked for"):
        await account.client(account.answering(account.listing([account.run(1)] * 101))).live_runs()


async def test_a_client_that_was_closed_says_that_nothing_was_sent() -> None:
    cloud = account.client(account.answering(account.envelope(account.run(1))))
    await cloud.close()
    with pytest.raises(errors.Unreachable) as caught:
        await cloud.run(1)
    assert caught.value.not_sent


async def test_the_clock_offset_comes_with_an_observation() -> None:
    reply = account.envelope(account.run(1))
    reply.headers["Date"] = "Sun, 01 Mar 2026 12:02:00 GMT"
    observation = await account.client(account.answering(reply)).run(1)
    assert observation.clock_offset == timedelta(minutes=2, seconds=0.5)
    assert observation.at == account.noon()


@pytest.mark.parametrize(
    ("date", "trip", "offset"),
    [
        ("Sun, 01 Mar 2026 12:00:00 GMT", 0.4, 0),
        ("Sun, 01 Mar 2026 12:00:01 GMT", 2.0, 0),
        ("Sun, 01 Mar 2026 11:59:00 GMT", 1.0, -60),
        ("Sun, 01 Mar 2026 13:01:00 +0100", 1.0, 60),
        ("whenever", 1.0, 0),
        (None, 1.0, 0),
    ],
)
def test_an_offset_that_the_round_trip_explains_is_none(date: str | None, trip: float, offset: float) -> None:
    received = account.NOON + timedelta(seconds=trip)
    assert clock_offset(date, account.NOON, received).total_seconds() == offset


def test_a_client_prints_without_its_token() -> None:
    assert account.SECRET not in repr(Client(account.CONNECTION))


async def test_the_project_of_a_job_is_asked_for_once_in_a_while() -> None:
    recorder = account.Recorder(account.answering(account.envelope({"id": 99, "project_id": 7})))
    client = account.client(recorder)
    assert [await client.project_of_job(99) for _ in range(3)] == [7, 7, 7]
    assert recorder.paths == ["/api/v2/accounts/4242/jobs/99/"]


@pytest.mark.parametrize("job", [{"id": 98, "project_id": 7}, {"id": 99, "project_id": None}, {"id": 99}])
async def test_a_reply_about_another_job_names_no_project(job: dict[str, Any]) -> None:
    assert await account.client(account.answering(account.envelope(job))).project_of_job(99) is None


async def test_a_job_without_a_project_because_there_is_none_is_not_found() -> None:
    client = account.client(account.answering(account.refusal(404, "The requested resource was not found.")))
    with pytest.raises(errors.JobNotFound):
        await client.project_of_job(99)


async def test_the_project_of_a_run_is_read_of_that_run_alone() -> None:
    client = account.client(account.answering(account.envelope(account.run(5))))
    assert await client.project_of_run(5) == 7
    assert await client.project_of_run(6) is None
