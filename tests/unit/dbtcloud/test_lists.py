"""Lists of runs are believed as far as they prove that dbt Cloud applied what was asked."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection
from datetime import timedelta
from typing import Any

import httpx
import pytest

from dbtrun.api import Job, Reason
from tests.unit.dbtcloud import account
from watcher.dbtcloud import errors
from watcher.lifecycle.facts import RunState

SINCE = account.NOON - timedelta(hours=1)


def page(runs: list[Any], offset: int, **filters: Any) -> httpx.Response:
    return account.listing(runs[offset : offset + 100], len(runs), **filters)


def paged(runs: list[Any], **filters: Any) -> account.Recorder:
    """A list that dbt Cloud hands out in pages of 100."""
    return account.Recorder(lambda request: page(runs, int(request.url.params["offset"]), **filters))


async def test_runs_are_asked_for_by_id_in_one_request() -> None:
    reply = account.listing([account.run(3), account.run(1, 10)], pk__in=[1, 3])
    recorder = account.Recorder(account.answering(reply))
    batch = await account.client(recorder).runs([1, 3])
    assert batch.supported
    assert {run_id: o.run and o.run.state for run_id, o in batch.observations.items()} == {
        1: RunState.SUCCESS,
        3: RunState.RUNNING,
    }
    assert recorder.paths == ["/api/v2/accounts/4242/runs/"]
    assert recorder.params() == {"pk__in": "[1,3]", "limit": "100", "order_by": "-id"}


async def test_an_id_that_is_not_listed_is_missing() -> None:
    reply = account.listing([account.run(3)], pk__in=[1, 3])
    assert (await account.client(account.answering(reply)).runs([1, 3])).missing == (1,)


async def test_runs_that_nobody_asked_for_show_that_the_filter_is_ignored() -> None:
    reply = account.listing([account.run(1), account.run(2)], pk__in=[1, 3])
    batch = await account.client(account.answering(reply)).runs([1, 3])
    assert (batch.supported, batch.missing, set(batch.observations)) == (False, (), {1})


async def test_a_filter_without_an_echo_is_believed_only_if_everything_came() -> None:
    cloud = account.client(account.answering(account.listing([account.run(1)])))
    assert (await cloud.runs([1])).supported
    assert not (await cloud.runs([1, 3])).supported


async def test_a_refused_filter_is_not_supported() -> None:
    refusal = account.refusal(400, "The request was invalid.")
    cloud = account.client(account.answering(refusal))
    assert not (await cloud.runs([1])).supported
    assert not (await cloud.live_runs()).supported
    assert not (await cloud.finished_since(SINCE)).supported


async def test_a_run_of_unknown_status_does_not_spoil_the_others() -> None:
    reply = account.listing([account.run(1, 77, in_progress=None), account.run(3)], pk__in=[1, 3])
    batch = await account.client(account.answering(reply)).runs([1, 3])
    assert (set(batch.observations), set(batch.unreadable), batch.missing) == ({3}, {1}, ())


async def test_live_runs_are_read_to_the_last_page() -> None:
    recorder = paged([account.run(number, 1 + number % 3) for number in range(1, 251)])
    batch = await account.client(recorder).live_runs()
    assert (len(batch.observations), batch.pages, batch.supported, batch.complete) == (250, 3, True, True)
    assert recorder.params(0) == {"status__in": "[1,2,3]", "order_by": "id", "limit": "100", "offset": "0"}


async def test_an_ignored_status_filter_costs_one_page() -> None:
    recorder = paged([account.run(number, 10) for number in range(1, 10_001)])
    batch = await account.client(recorder).live_runs()
    assert (batch.supported, len(recorder.requests)) == (False, 1)


async def test_finished_runs_are_asked_for_by_time() -> None:
    recorder = paged([account.run(number, 10) for number in range(1, 102)])
    batch = await account.client(recorder).finished_since(SINCE)
    assert (len(batch.observations), batch.pages, batch.supported) == (101, 2, True)
    params = recorder.params()
    assert params["order_by"] == "finished_at"
    assert json.loads(params["finished_at__range"])[0] == "2026-03-01T11:00:00+00:00"


async def test_finished_runs_are_read_only_as_far_as_asked() -> None:
    recorder = paged([account.run(number, 10) for number in range(1, 1001)])
    batch = await account.client(recorder).finished_since(SINCE, max_pages=2)
    assert (len(batch.observations), batch.complete, len(recorder.requests)) == (200, False, 2)


@pytest.mark.parametrize("finished", [None, account.stamp(SINCE - timedelta(days=1))])
async def test_an_ignored_time_filter_is_noticed(finished: str | None) -> None:
    recorder = paged([account.run(number, 10, finished_at=finished) for number in range(1, 10_001)])
    batch = await account.client(recorder).finished_since(SINCE)
    assert (batch.supported, dict(batch.observations), len(recorder.requests)) == (False, {}, 1)


def started(run_id: int, cause: str | None, minutes_ago: float, **changes: Any) -> dict[str, Any]:
    created = account.stamp(account.NOON - timedelta(minutes=minutes_ago))
    return account.run(run_id, created_at=created, trigger={"id": 1, "cause": cause}, **changes)


async def test_our_runs_are_found_by_their_marker_oldest_first() -> None:
    runs = [
        started(9, "dbtrun:u/1 nightly", 1),
        started(8, "dbtrun:u/12 nightly", 2),
        started(7, "dbtrun:u/1", 3),
        started(6, "see dbtrun:u/1", 4),
        started(5, None, 5),
        started(4, "dbtrun:u/1; x", 6, job_definition_id=98, job_id=98),
        started(3, "dbtrun:u/1\nx", 90),
    ]
    recorder = paged(runs)
    found = await account.client(recorder).find_marked(99, "dbtrun:u/1", SINCE)
    assert [run.run_id for run in found] == [3, 7, 9], "and a run that was read anyway is not hidden"
    assert recorder.params() == {
        "job_definition_id": "99",
        "order_by": "-id",
        "include_related": '["trigger"]',
        "limit": "100",
        "offset": "0",
    }


async def test_a_search_ends_where_runs_are_older_than_the_start() -> None:
    recorder = paged([started(5000 - number, "other", number) for number in range(1000)])
    assert await account.client(recorder).find_marked(99, "dbtrun:u/1", SINCE) == ()
    assert len(recorder.requests) == 1


async def test_a_search_goes_on_while_runs_are_younger_than_the_start() -> None:
    runs = [started(5000 - number, "other", 1) for number in range(250)] + [started(1, "dbtrun:u/1", 2)]
    recorder = paged(runs)
    assert [run.run_id for run in await account.client(recorder).find_marked(99, "dbtrun:u/1", SINCE)] == [1]
    assert len(recorder.requests) == 3


async def test_a_list_in_another_order_proves_nothing() -> None:
    recorder = paged([started(1, "other", 600), started(2, "dbtrun:u/1", 1)])
    with pytest.raises(errors.ServerFault, match="newest first"):
        await account.client(recorder).find_marked(99, "dbtrun:u/1", SINCE)


async def test_a_list_that_stands_still_proves_nothing() -> None:
    first = page([started(5000 - number, "other", 1) for number in range(250)], 0)
    with pytest.raises(errors.ServerFault, match="newest first"):
        await account.client(account.answering(first)).find_marked(99, "dbtrun:u/1", SINCE)


async def test_a_list_without_triggers_proves_nothing() -> None:
    recorder = paged([account.run(1)])
    with pytest.raises(errors.ServerFault, match="triggers"):
        await account.client(recorder).find_marked(99, "dbtrun:u/1", SINCE)


async def test_a_search_that_would_not_end_proves_nothing() -> None:
    recorder = paged([started(50_000 - number, "other", 1) for number in range(10_101)])
    with pytest.raises(errors.ServerFault, match="too many pages"):
        await account.client(recorder).find_marked(99, "dbtrun:u/1", SINCE)


async def test_a_run_of_unknown_status_does_not_stop_a_search_for_another() -> None:
    recorder = paged([started(2, "other", 1, status=77, in_progress=None), started(1, "dbtrun:u/1", 2)])
    assert [run.run_id for run in await account.client(recorder).find_marked(99, "dbtrun:u/1", SINCE)] == [1]


async def test_retries_are_found_by_the_run_that_they_resume() -> None:
    recorder = paged([account.run(9, retrying_run_id=5), account.run(8, retrying_run_id=4), account.run(5, 20)])
    assert [run.run_id for run in await account.client(recorder).find_retries(99, 5, SINCE)] == [9]
    assert "include_related" not in recorder.params()


async def test_the_newest_live_run_of_a_job_is_found() -> None:
    recorder = account.Recorder(account.answering(account.listing([account.run(9, 1), account.run(8, 3)])))
    run = await account.client(recorder).find_live(99)
    assert run is not None
    assert run.run_id == 9
    asked = {"job_definition_id": "99", "status__in": "[1,2,3]", "order_by": "-id", "include_related": '["trigger"]'}
    assert recorder.params() == asked


async def test_a_run_that_is_over_or_another_jobs_is_no_live_run() -> None:
    runs = [account.run(9, 10), account.run(8, 3, job_definition_id=98)]
    assert await account.client(account.answering(account.listing(runs))).find_live(99) is None


PROJECTS = [{"id": 1, "name": "Analytics"}, {"id": 2, "name": "Analytics EU"}, {"id": 3, "name": "analytics"}]
ENVIRONMENTS = [{"id": 10, "name": "Production"}, {"id": 11, "name": "Staging"}]
JOBS = [
    {"id": 100, "name": "Nightly", "project_id": 1, "environment_id": 10},
    {"id": 101, "name": "Nightly", "project_id": 1, "environment_id": 11},
    {"id": 102, "name": "Twice", "project_id": 1, "environment_id": 10},
    {"id": 103, "name": "Twice", "project_id": 1, "environment_id": 10},
    {"id": 104, "name": "Gone", "project_id": 1, "environment_id": 10, "state": 2},
]
LISTS = {
    "/api/v3/accounts/4242/projects/": PROJECTS,
    "/api/v3/accounts/4242/projects/1/environments/": ENVIRONMENTS,
    "/api/v2/accounts/4242/jobs/": JOBS,
}


def names(request: httpx.Request) -> httpx.Response:
    """Lists by name as dbt Cloud does: any case, anywhere in the name."""
    part = request.url.params.get("name__icontains", "").lower()
    return account.listing([item for item in LISTS[request.url.path] if part in str(item["name"]).lower()])


async def test_a_job_is_found_by_its_three_names_exactly() -> None:
    job = Job(name="Nightly", project="Analytics", environment="Production")
    assert await account.client(names).resolve_job(job) == 100


async def test_a_job_given_by_id_needs_no_request() -> None:
    recorder = account.Recorder(names)
    assert await account.client(recorder).resolve_job(Job(id=5)) == 5
    assert recorder.requests == []


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (
            Job(name="Nightly", project="Analytic", environment="Production"),
            'dbt Cloud has no project named "Analytic" that the token may see: '
            'did you mean "Analytics", "analytics", "Analytics EU"?',
        ),
        (
            Job(name="Nightly", project="Analytics", environment="Prod"),
            'dbt Cloud has no environment named "Prod" that the token may see: did you mean "Production"?',
        ),
        (
            Job(name="nightly", project="Analytics", environment="Production"),
            'dbt Cloud has no job named "nightly" that the token may see: did you mean "Nightly"?',
        ),
        (
            Job(name="Gone", project="Analytics", environment="Production"),
            'dbt Cloud has no job named "Gone" that the token may see',
        ),
        (
            Job(name="Twice", project="Analytics", environment="Production"),
            'dbt Cloud has 2 jobs named "Twice": use `spec.job.id`',
        ),
        (Job(name="Nightly"), "`spec.job` needs `id`, or `name`, `project` and `environment` together"),
    ],
)
async def test_a_name_that_leads_to_no_job_is_told_with_what_there_is(job: Job, message: str) -> None:
    with pytest.raises(errors.JobNotFound) as caught:
        await account.client(names).resolve_job(job)
    assert caught.value.message == message
    assert (caught.value.reason, caught.value.final) == (Reason.JOB_NOT_FOUND, True)


async def test_few_names_are_compared_with_one_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []
    compare = difflib.get_close_matches

    def counting(word: str, possibilities: Collection[str], n: int, cutoff: float) -> list[str]:
        compared.extend([len(possibilities), len(word), max(map(len, possibilities))])
        return compare(word, possibilities, n, cutoff)

    monkeypatch.setattr(difflib, "get_close_matches", counting)
    projects = [{"id": number + 1, "name": f"{number:05}" + "x" * 245} for number in range(5_000)]

    def answer(request: httpx.Request) -> httpx.Response:
        if "name__icontains" in request.url.params:
            return account.listing([])
        offset = int(request.url.params["offset"])
        return account.listing(projects[offset : offset + 100], len(projects))

    job = Job(name="j", project="y" * 250, environment="e")
    with pytest.raises(errors.JobNotFound):
        await account.client(answer).resolve_job(job)
    assert max(compared) <= 60


async def test_a_list_of_deleted_things_has_an_end() -> None:
    recorder = account.Recorder(lambda _: account.listing([{"id": 1, "name": "x", "state": 2}] * 100, 10**9))
    with pytest.raises(errors.JobNotFound):
        await account.client(recorder).resolve_job(Job(name="j", project="p", environment="e"))
    assert len(recorder.requests) == 100
