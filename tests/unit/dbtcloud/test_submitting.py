"""A start or a retry is sent once, and what is said about it is never more than what is known."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import httpx
import pytest

from dbtrun.api import Overrides, PullRequestId, Reason
from tests.unit.dbtcloud import account
from watcher.dbtcloud.budget import Budget
from watcher.lifecycle.facts import NotSent, Refused, RunState, Started, Submission, Undecided

NO_OVERRIDES = Overrides()
NOT_FOUND = "The requested resource was not found. Please check that you have the proper permissions."
Reply = httpx.Response | Exception
Submit = Callable[[Reply], Awaitable[Submission]]


async def start(reply: Reply) -> Submission:
    return await account.client(account.answering(reply)).start(99, "dbtrun:u/1 nightly", NO_OVERRIDES)


async def retry(reply: Reply) -> Submission:
    return await account.client(account.answering(reply)).retry(500)


async def test_a_start_sends_the_cause_and_only_the_overrides_that_are_set() -> None:
    recorder = account.Recorder(account.answering(account.envelope(account.run(1, 1))))
    overrides = Overrides(
        steps=("dbt build", "dbt test"),
        schema="s",
        git_branch="b",
        git_sha="c",
        threads=4,
        target="t",
        dbt_version="1.9",
        generate_docs=False,
        timeout_seconds=0,
        pull_request_id=PullRequestId(github=5),
    )
    await account.client(recorder).start(99, "dbtrun:u/1 nightly", overrides)
    assert recorder.paths == ["/api/v2/accounts/4242/jobs/99/run/"]
    assert recorder.body() == {
        "cause": "dbtrun:u/1 nightly",
        "steps_override": ["dbt build", "dbt test"],
        "schema_override": "s",
        "git_branch": "b",
        "git_sha": "c",
        "threads_override": 4,
        "target_name_override": "t",
        "dbt_version_override": "1.9",
        "generate_docs_override": False,
        "timeout_seconds_override": 0,
        "github_pull_request_id": 5,
    }


@pytest.mark.parametrize(
    ("pull_request", "key"),
    [
        (PullRequestId(gitlab=5), "gitlab_merge_request_id"),
        (PullRequestId(azure_dev_ops=5), "azure_pull_request_id"),
        (PullRequestId(other=5), "non_native_pull_request_id"),
    ],
)
async def test_a_pull_request_goes_under_its_hosts_name(pull_request: PullRequestId, key: str) -> None:
    recorder = account.Recorder(account.answering(account.envelope(account.run(1, 1))))
    await account.client(recorder).start(99, "why", Overrides(pull_request_id=pull_request))
    assert recorder.body() == {"cause": "why", key: 5}


async def test_a_cause_is_cut_where_dbt_cloud_would_refuse_it() -> None:
    recorder = account.Recorder(account.answering(account.envelope(account.run(1, 1))))
    await account.client(recorder).start(99, "x" * 300, NO_OVERRIDES)
    assert recorder.body() == {"cause": "x" * 255}


async def test_a_start_that_was_answered_with_a_run_is_started() -> None:
    reply = account.envelope(account.run(1, 1, trigger={"id": 3, "cause": "dbtrun:u/1 nightly"}))
    submission = await start(reply)
    assert isinstance(submission, Started)
    assert (submission.run.run_id, submission.run.state, submission.run.cause) == (
        1,
        RunState.QUEUED,
        "dbtrun:u/1 nightly",
    )


async def test_a_retry_posts_to_the_run_without_a_body() -> None:
    recorder = account.Recorder(account.answering(account.envelope(account.run(501, 1, retrying_run_id=500))))
    submission = await account.client(recorder).retry(500)
    assert isinstance(submission, Started)
    assert submission.run.retrying_run_id == 500
    assert (recorder.paths, recorder.body()) == (["/api/v2/accounts/4242/runs/500/retry/"], None)


@pytest.mark.parametrize("submit", [start, retry])
@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (account.refusal(403, "You do not have permission."), Reason.FORBIDDEN),
        (account.refusal(400, "The request was invalid.", {"cause": "required"}), Reason.SUBMISSION_REJECTED),
        (account.refusal(409, "Conflict."), Reason.SUBMISSION_REJECTED),
        (account.refusal(422, "No."), Reason.SUBMISSION_REJECTED),
        (httpx.Response(405, json={"detail": 'Method "GET" not allowed.'}), Reason.SUBMISSION_REJECTED),
    ],
)
async def test_a_refusal_in_dbt_clouds_own_words_is_final(
    submit: Submit, reply: httpx.Response, reason: Reason
) -> None:
    submission = await submit(reply)
    assert isinstance(submission, Refused)
    assert submission.reason is reason


async def test_a_job_that_does_not_exist_is_refused_as_such() -> None:
    assert await start(account.refusal(404, NOT_FOUND)) == Refused(
        Reason.JOB_NOT_FOUND, f"POST /jobs/99/run/ at cloud.getdbt.com answered 404: {NOT_FOUND}"
    )


async def test_a_run_that_does_not_exist_cannot_be_retried() -> None:
    submission = await retry(account.refusal(404, NOT_FOUND))
    assert isinstance(submission, Refused)
    assert submission.reason is Reason.RUN_NOT_FOUND


async def test_a_rejection_names_the_fields_that_dbt_cloud_names() -> None:
    submission = await start(account.refusal(400, "The request was invalid.", {"threads_override": ["too many"]}))
    assert isinstance(submission, Refused)
    assert submission.message.endswith('The request was invalid. (threads_override: ["too many"])')


@pytest.mark.parametrize("submit", [start, retry])
@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (account.refusal(401, "Invalid token."), Reason.UNAUTHORIZED),
        (account.page_of_a_proxy(401), Reason.UNAUTHORIZED),
        (account.refusal(429, "Slow down."), Reason.RATE_LIMITED),
        (httpx.Response(429), Reason.RATE_LIMITED),
        (httpx.ConnectError("[Errno -2] Name or service not known"), Reason.UNREACHABLE),
        (httpx.ConnectTimeout(""), Reason.UNREACHABLE),
        (httpx.ProxyError("403 Forbidden"), Reason.UNREACHABLE),
        (httpx.PoolTimeout(""), Reason.UNREACHABLE),
    ],
)
async def test_what_cannot_have_started_anything_may_be_sent_again(
    submit: Submit, reply: Reply, reason: Reason
) -> None:
    submission = await submit(reply)
    assert isinstance(submission, NotSent)
    assert submission.trouble.reason is reason


@pytest.mark.parametrize("submit", [start, retry])
@pytest.mark.parametrize(
    "reply",
    [
        httpx.ReadTimeout(""),
        httpx.WriteTimeout(""),
        httpx.ReadError("connection reset"),
        httpx.WriteError("broken pipe"),
        httpx.RemoteProtocolError("Server disconnected without sending a response."),
        account.refusal(500, "Server error."),
        httpx.Response(500, json={"detail": "There was a server error. Please contact support."}),
        account.page_of_a_proxy(502),
        account.page_of_a_proxy(503),
        account.page_of_a_proxy(504),
        account.page_of_a_proxy(403),
        account.page_of_a_proxy(404),
        account.page_of_a_proxy(400),
        account.refusal(408, "Request timeout."),
        httpx.Response(404, json={"detail": "Not found."}),
        httpx.Response(200, html="<html>Welcome</html>"),
        httpx.Response(200, content=b""),
        httpx.Response(200, json={"data": None, "status": {"code": 200, "is_success": True}}),
        httpx.Response(200, json={"data": {"id": 1}}),
        httpx.Response(200, json=[]),
        httpx.Response(200, content=b"\xff\xfe"),
        httpx.Response(204),
        httpx.Response(302, headers={"Location": "https://login.example/"}),
        account.envelope(account.run(1, 77, in_progress=None)),
        account.envelope(account.run(500, 1, job_definition_id=98)),
        account.envelope(account.run(500, 1, account_id=1)),
    ],
)
async def test_everything_else_leaves_it_undecided(submit: Submit, reply: Reply) -> None:
    assert isinstance(await submit(reply), Undecided)


async def test_a_reply_that_cannot_be_decompressed_leaves_it_undecided() -> None:
    broken = httpx.ByteStream(b"not gzip")
    assert isinstance(await start(httpx.Response(200, stream=broken, headers={"Content-Encoding": "gzip"})), Undecided)


async def test_it_is_sent_only_once_whatever_happens() -> None:
    recorder = account.Recorder(account.answering(httpx.ReadTimeout("")))
    await account.client(recorder).start(99, "why", NO_OVERRIDES)
    assert len(recorder.requests) == 1


async def test_a_rate_limit_pauses_the_account_and_says_until_when() -> None:
    budget = Budget(clock=lambda: 1000.0)
    limited = account.client(
        account.answering(account.refusal(429, "Slow down.", **{"Retry-After": "17"})), budget=budget
    )
    submission = await limited.start(99, "why", NO_OVERRIDES)
    assert isinstance(submission, NotSent)
    assert (submission.trouble.retry_at, budget.paused_until) == (1017.0, 1017.0)


async def test_nothing_is_sent_while_the_account_is_paused() -> None:
    budget = Budget(clock=lambda: 1000.0)
    budget.pause(60)
    recorder = account.Recorder(account.answering(account.envelope(account.run(1, 1))))
    submission = await account.client(recorder, budget=budget).start(99, "why", NO_OVERRIDES)
    assert isinstance(submission, NotSent)
    assert (submission.trouble.reason, submission.trouble.retry_at) == (Reason.RATE_LIMITED, 1060.0)
    assert recorder.requests == []


async def test_a_token_never_shows_in_a_message() -> None:
    for reply in (
        account.refusal(400, f"Bad header: Token {account.SECRET}", {"header": account.SECRET}),
        httpx.Response(502, text=f"Authorization: Token {account.SECRET}"),
        httpx.LocalProtocolError(f"Illegal header value b'Token {account.SECRET}'"),
        httpx.ConnectError(f"proxy said {account.SECRET}"),
        httpx.Response(302, headers={"Location": f"https://{account.SECRET}.example/{account.SECRET}"}),
    ):
        assert account.SECRET not in repr(await start(reply))
