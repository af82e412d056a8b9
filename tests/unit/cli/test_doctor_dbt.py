"""`dbtrun doctor` and the simulator: each fault is named for what it is, with few requests and no side effect."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
import yaml

from dbtrun.cli.dbtcloud import DbtCloud, Reply
from dbtrun.cli.doctor import dbt_facts
from dbtrun.cli.doctor.command import ANY
from dbtrun.cli.doctor.dbt_checks import findings
from dbtrun.cli.doctor.dbt_facts import DbtFacts, gather
from dbtrun.cli.doctor.finding import Finding, Verdict
from dbtrun.cli.doctor.record import scenario
from dbtrun.connection.secret import parse_connection
from tests.patience import patience
from watcher.simulator.faults import Rule
from watcher.simulator.model import TriggerRequest
from watcher.simulator.scenario import JobSpec, Scenario, TokenSpec, convert, parse
from watcher.simulator.testing import Running, running

MAX_REQUESTS = 60
SECRET_NAMES = ("Northwind acquisition", "finance_private", "dbt-simulator-token", "hunter2")
JOBS = [
    JobSpec(
        name="Northwind acquisition", queue=0, start=0, run=0, parallel=True,
        steps=["dbt build --select finance_private"],
    ),
    JobSpec(name="other", queue=0, start=0, run=0, parallel=True),
    JobSpec(name="held", queue=0, start=0, run=None, cancel_delay=0, parallel=True),
]  # fmt: skip


def account(**more: Any) -> Scenario:
    return Scenario(jobs=[msgspec.structs.replace(job) for job in JOBS], **more)


async def with_history(cloud: Running) -> None:
    """A few runs of two jobs, over."""
    jobs = list(cloud.simulator.account.jobs.values())[:2]
    for index in range(6):
        job = jobs[index % len(jobs)]
        cloud.simulator.start(job, TriggerRequest(cause=f"hunter2 {index}"), action="ui")
    cloud.simulator.account.advance()
    cloud.simulator.requests.clear()


async def examine(
    cloud: Running,
    *,
    job: int | None = None,
    start: bool = False,
    offset: float | None = 0.0,
    selected: Sequence[int] = (),
    keys: Mapping[str, str] = {},
) -> tuple[DbtFacts, list[Finding]]:
    data = {"token": cloud.token, "account-id": str(cloud.account_id), "host": cloud.url, **keys}
    connection = parse_connection({key: value.encode() for key, value in data.items()}, "x", ANY)
    async with DbtCloud(connection) as client:
        facts = await gather(client, job, datetime.now(UTC), start=start, selected=selected)
    return facts, list(findings(facts, offset))


def in_the_way(found: Sequence[Finding]) -> dict[str, str]:
    return {one.check: one.message for one in found if one.verdict is Verdict.BAD}


async def test_a_job_that_a_mirror_selects_and_the_token_does_not_see_is_named() -> None:
    async with running(account()) as cloud:
        await with_history(cloud)
        _, found = await examine(cloud, selected=[cloud.job_id])
        assert in_the_way(found) == {}
        assert "mirrored jobs" in {one.check for one in found}
        facts, found = await examine(cloud, selected=[cloud.job_id, 999, *range(1, 50)])
        assert "does not see the job 999, which a mirror selects" in str(found)
        assert set(in_the_way(found)) == {"mirrored jobs"}
        assert facts.requests <= MAX_REQUESTS / 2


async def test_a_healthy_account_is_healthy_and_nothing_is_changed() -> None:
    async with running(account()) as cloud:
        await with_history(cloud)
        before = len(cloud.simulator.journal.entries)
        began = time.monotonic()
        facts, found = await examine(cloud, job=cloud.job_id)
        assert {one.verdict for one in found} == {Verdict.GOOD}, found
        assert {"account", "clock", "job", "list order", "causes", "filters"} == {one.check for one in found}
        assert len(cloud.simulator.journal.entries) == before
        assert cloud.simulator.requests.report()["kinds"] == {"get-account": 1, "get-job": 1, "list-runs": 5}
        assert facts.requests == 7
        assert time.monotonic() - began < 60


async def test_with_start_a_run_is_started_found_and_cancelled() -> None:
    async with running(account()) as cloud:
        await with_history(cloud)
        held = list(cloud.simulator.account.jobs)[2]
        facts, found = await examine(cloud, job=held, start=True)
        assert in_the_way(found) == {}
        assert {"start", "list lag", "cause length", "cancel"} <= {one.check for one in found}
        actions = [entry.action for entry in cloud.simulator.journal.entries if entry.action != "ui"]
        assert actions == ["start", "cancel"]
        (started,) = [run for run in cloud.simulator.account.runs.values() if run.job_id == held]
        assert len(started.request.cause) == 255
        assert started.status == 30
        assert facts.requests <= MAX_REQUESTS


Effect = dict[str, Any]
FAULTS: list[tuple[str, list[str], Effect, str, str]] = [
    ("401", ["get-account"], {"type": "reply", "status": 401, "body": "enveloped"}, "account", "token is refused"),
    ("403", ["get-account"], {"type": "reply", "status": 403, "body": "enveloped"}, "account", "may not do this (403)"),
    ("404", ["get-account"], {"type": "reply", "status": 404, "body": "enveloped"}, "account", "has no such object"),
    ("429", [], {"type": "rate-limit"}, "account", "request limit of the account is used up"),
    ("500", [], {"type": "reply", "status": 500}, "account", "server error (HTTP 500)"),
    ("502 HTML", [], {"type": "reply", "status": 502, "body": "html"}, "account", "server error (HTTP 502)"),
    ("200 HTML", [], {"type": "reply", "status": 200, "body": "html"}, "account", "not dbt Cloud's JSON (HTTP 200)"),
    ("200 empty", [], {"type": "reply", "status": 200, "body": "empty"}, "account", "not dbt Cloud's JSON"),
    ("404 HTML", [], {"type": "reply", "status": 404, "body": "html"}, "account", "not dbt Cloud's JSON (HTTP 404)"),
    ("redirect", [], {"type": "redirect", "location": "https://elsewhere.example/"}, "account", "elsewhere.example"),
    ("dropped", [], {"type": "drop"}, "account", "closed before the answer was complete"),
    ("truncated", [], {"type": "truncate"}, "account", "not dbt Cloud's JSON"),
    ("huge", [], {"type": "huge", "size": 9_000_000}, "account", "larger than 8 MB"),
    ("hang", [], {"type": "hang"}, "account", "no complete answer"),
    ("drip", [], {"type": "slow", "chunk": 1, "seconds": 0.5}, "account", "no complete answer"),
    ("job 403", ["get-job"], {"type": "reply", "status": 403, "body": "enveloped"}, "job", "may not do this (403)"),
    ("list 500", ["list-runs"], {"type": "reply", "status": 500}, "list", "The list of runs: dbt Cloud answers with"),
    ("pk__in", ["list-runs"], {"type": "ignore-filters", "filters": ["pk__in"]}, "filters", "the filters pk__in."),
    (
        "filters",
        ["list-runs"],
        {"type": "ignore-filters", "filters": ["status__in", "finished_at__range", "job_definition_id"]},
        "filters",
        "the filters status__in, finished_at__range, job_definition_id.",
    ),
]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dbtrun.cli.dbtcloud.REQUEST_SECONDS", patience(2.0))


@pytest.mark.parametrize(("name", "kinds", "effect", "check", "words"), FAULTS, ids=[fault[0] for fault in FAULTS])
async def test_a_fault_is_named(name: str, kinds: list[str], effect: Effect, check: str, words: str) -> None:
    async with running(account()) as cloud:
        await with_history(cloud)
        before = len(cloud.simulator.journal.entries)
        cloud.simulator.faults.add(convert({"kinds": kinds, "effect": effect}, Rule))
        facts, found = await examine(cloud, job=cloud.job_id)
        wrong = in_the_way(found)
        assert wrong.keys() == {check}, name
        assert words in wrong[check]
        assert all(one.remedy for one in found if one.verdict is Verdict.BAD)
        assert len(cloud.simulator.journal.entries) == before
        assert facts.requests <= MAX_REQUESTS


async def test_a_status_code_that_is_not_known_is_told() -> None:
    async with running(account()) as cloud:
        await with_history(cloud)
        cloud.simulator.faults.add(
            convert({"kinds": ["list-runs"], "effect": {"type": "unknown-status", "status": 42}}, Rule)
        )
        _, found = await examine(cloud, job=cloud.job_id)
        assert [one.message for one in found if one.check == "status codes"] == [
            "Runs have the status 42, which this release does not know."
        ]


async def test_latency_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dbtrun.cli.doctor.dbt_checks.SLOW_SECONDS", 0.5)
    async with running(account()) as cloud:
        cloud.simulator.faults.add(
            convert({"kinds": ["get-account"], "effect": {"type": "latency", "seconds": 1}}, Rule)
        )
        _, found = await examine(cloud, job=cloud.job_id)
        assert [one.verdict for one in found if one.check == "latency"] == [Verdict.WARNING]


@pytest.mark.parametrize(
    ("offset", "verdict", "words"),
    [
        (-900, Verdict.BAD, "behind the API server's"),
        (-120, Verdict.WARNING, "behind"),
        (900, Verdict.WARNING, "ahead of"),
        (5, Verdict.GOOD, "agree"),
    ],
)
async def test_a_wrong_clock_is_told(offset: float, verdict: Verdict, words: str) -> None:
    async with running(account()) as cloud:
        cloud.simulator.set_clock(None, offset)
        _, found = await examine(cloud, job=cloud.job_id)
        (told,) = [one for one in found if one.check == "clock"]
        assert (told.verdict, words in told.message) == (verdict, True), told


async def test_a_clock_that_cannot_be_compared_is_not_judged() -> None:
    async with running(account()) as cloud:
        _, found = await examine(cloud, offset=None)
        assert [one.verdict for one in found if one.check == "clock"] == [Verdict.UNKNOWN]


async def test_a_job_that_is_missing_or_hidden() -> None:
    async with running(account()) as cloud:
        _, found = await examine(cloud, job=4711)
        assert "The job 4711: dbt Cloud has no such object" in in_the_way(found)["job"]


async def test_a_token_that_sees_no_job() -> None:
    async with running(Scenario(jobs=[])) as cloud:
        _, found = await examine(cloud)
        assert in_the_way(found) == {"job": "The token sees no job."}
        assert [one.remedy for one in found if one.check == "list order"] == ["Use --start JOB."]


async def test_a_token_of_another_account() -> None:
    async with running(account()) as cloud:
        _, found = await examine(cloud, keys={"account-id": "12345"})
        assert "account" in in_the_way(found)


async def test_a_host_that_does_not_exist_or_does_not_listen() -> None:
    async with running(account()) as cloud:
        _, found = await examine(cloud, keys={"host": "https://no-such-host.invalid"})
        assert "the host does not exist" in in_the_way(found)["account"]
        _, found = await examine(cloud, keys={"host": "http://127.0.0.1:9"})
        assert "no connection to the host" in in_the_way(found)["account"]


async def test_a_certificate_that_is_not_trusted() -> None:
    async with running(account(), tls=True) as cloud:
        _, found = await examine(cloud)
        assert "certificate of the host is not trusted" in in_the_way(found)["account"]
        assert cloud.ca is not None
        _, found = await examine(cloud, keys={"ca.crt": cloud.ca.read_text()})
        assert in_the_way(found) == {}


async def test_an_order_that_is_ignored_and_causes_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulator cannot do this; its replies are changed on the way."""
    genuine = DbtCloud.get

    async def changed(self: DbtCloud, path: str = "", **params: str) -> Any:
        params.pop("order_by", None)
        params.pop("include_related", None)
        return await genuine(self, path, **params)

    async with running(account()) as cloud:
        await with_history(cloud)
        monkeypatch.setattr(DbtCloud, "get", changed)
        _, found = await examine(cloud, job=cloud.job_id)
        assert in_the_way(found).keys() == {"list order", "causes"}


# ---- with --start


async def started(cloud: Running, **rule: Any) -> tuple[DbtFacts, list[Finding]]:
    held = list(cloud.simulator.account.jobs)[2]
    if rule:
        cloud.simulator.faults.add(convert(rule, Rule))
    return await examine(cloud, job=held, start=True)


async def test_a_token_that_may_only_read_cannot_start() -> None:
    tokens = [TokenSpec(token="reader", read_only=True)]
    async with running(account(tokens=tokens)) as cloud:
        _, found = await started(cloud)
        assert "A run cannot be started: the token may not do this (403)" in in_the_way(found)["start"]
        assert cloud.simulator.account.runs == {}


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_reply_that_is_lost(when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dbt_facts, "LOOKS", (0.1, 0.1))
    async with running(account()) as cloud:
        _, found = await started(cloud, kinds=["start"], effect={"type": "drop", "when": when})
        if when == "before":
            assert "does not say whether the run was started (cut off)" in in_the_way(found)["start"]
        else:
            assert "(cut off), but the run" in next(one.message for one in found if one.check == "start")
            assert [run.status for run in cloud.simulator.account.runs.values()] == [30], "it is cancelled"


@pytest.mark.parametrize("status", [500, 502])
async def test_a_run_behind_a_gateways_error_is_found_and_cancelled(status: int) -> None:
    async with running(account()) as cloud:
        effect = {"type": "reply", "status": status, "body": "html", "commit": True}
        _, found = await started(cloud, kinds=["start"], effect=effect)
        assert "(server error), but the run" in next(one.message for one in found if one.check == "start")
        assert [run.status for run in cloud.simulator.account.runs.values()] == [30]


ODD_DATA: tuple[Any, ...] = (None, 5, "text", True, [], {}, [[]], [{"id": []}], {"id": None}, {"id": "9"}, {"id": []})


@pytest.mark.parametrize(
    ("path", "check"), [("jobs/", "job"), ("jobs/ID/", "job"), ("runs/", "list"), ("jobs/ID/run/", "start")]
)
async def test_a_success_without_what_was_asked_for_is_a_finding(
    path: str, check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The simulator cannot do this; its replies are changed on the way."""
    monkeypatch.setattr(dbt_facts, "LOOKS", (0.01,))
    genuine, data = DbtCloud.ask, None

    async def changed(self: DbtCloud, method: str, asked: str, *rest: Any, **more: Any) -> Reply:
        reply = await genuine(self, method, asked, *rest, **more)
        return dataclasses.replace(reply, data=data) if re.sub(r"\d+", "ID", asked) == path else reply

    async with running(account()) as cloud:
        await with_history(cloud)
        held = list(cloud.simulator.account.jobs)[2]
        monkeypatch.setattr(DbtCloud, "ask", changed)
        for data in ODD_DATA:
            is_list = path in ("jobs/", "runs/")
            facts, found = await examine(cloud, job=None if path == "jobs/" else held, start=path.endswith("run/"))
            scenario(facts, found)
            if not isinstance(data, list if is_list else dict):
                assert "does not contain what was asked for" in " ".join(one.message for one in found) or any(
                    "(without what was asked for)" in one.message for one in found if one.check == check
                ), data
        states = [run.status for run in cloud.simulator.account.runs.values() if run.job_id == held]
        assert states == [30] * len(states), "what was started is cancelled"
        assert bool(states) == path.endswith("run/")


async def test_a_status_and_steps_of_no_known_kind_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = DbtCloud.ask

    async def changed(self: DbtCloud, *asked: Any, **more: Any) -> Reply:
        reply = await genuine(self, *asked, **more)
        odd = {"status": [], "execute_steps": 5, "created_at": 1, "trigger": []}
        match reply.data:
            case [*rows]:
                return dataclasses.replace(reply, data=[row | odd for row in rows])
            case {**row}:
                return dataclasses.replace(reply, data=row | odd)
            case _:
                return reply

    async with running(account()) as cloud:
        await with_history(cloud)
        monkeypatch.setattr(DbtCloud, "ask", changed)
        facts, found = await examine(cloud, job=cloud.job_id)
        assert "Runs have the status [], which this release does not know." in [one.message for one in found]
        assert scenario(facts, found)["jobs"]


async def test_the_lag_of_lists_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dbtrun.cli.doctor.dbt_checks.LAG", 2.0)
    async with running(account()) as cloud:
        facts, found = await started(cloud, kinds=["list-runs"], effect={"type": "list-lag", "seconds": 1.5})
        assert facts.started is not None
        assert facts.started.lag is not None
        assert facts.started.lag >= 1.4
        assert [one.verdict for one in found if one.check == "list lag"] == [Verdict.WARNING]


async def test_a_run_that_no_list_has_and_no_id_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dbt_facts, "LOOKS", (0.1,))
    monkeypatch.setattr(dbt_facts, "ENDS", (0.1,))
    async with running(account()) as cloud:
        held = list(cloud.simulator.account.jobs)[2]
        probe = cloud.simulator.start(cloud.simulator.account.jobs[held], TriggerRequest(cause="probe"), action="ui")
        hidden = list(range(probe.id + 1, probe.id + 1000))
        cloud.simulator.faults.add(convert({"effect": {"type": "hide-runs", "runs": hidden}}, Rule))
        _, found = await examine(cloud, job=held, start=True)
        assert {"list lag", "read", "cancel"} == in_the_way(found).keys()


async def test_a_run_is_cancelled_even_if_the_check_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """By Ctrl-C, or because the time is over."""
    searching = asyncio.Event()

    async def forever(_seconds: float) -> None:
        searching.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(dbt_facts, "pause", forever)
    async with running(account()) as cloud:
        rule = {"kinds": ["list-runs"], "effect": {"type": "list-lag", "seconds": 600}}
        check = asyncio.create_task(started(cloud, **rule))
        await searching.wait()
        check.cancel()
        with pytest.raises(asyncio.CancelledError):
            await check
        assert [run.status for run in cloud.simulator.account.runs.values()] == [30]


async def test_a_cancel_that_is_refused() -> None:
    async with running(account()) as cloud:
        effect = {"type": "reply", "status": 403, "body": "enveloped"}
        _, found = await started(cloud, kinds=["cancel"], effect=effect)
        assert "cannot be cancelled: the token may not do this" in in_the_way(found)["cancel"]


async def test_a_cause_that_is_cut_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(account()) as cloud:
        genuine = cloud.simulator.start

        def cutting(job: Any, request: TriggerRequest, **more: Any) -> Any:
            return genuine(job, msgspec.structs.replace(request, cause=request.cause[:100]), **more)

        monkeypatch.setattr(cloud.simulator, "start", cutting)
        _, found = await started(cloud)
        assert in_the_way(found) == {
            "cause length": "dbt Cloud does not return a cause of 255 characters as it was sent: 100 came back."
        }


# ---- the record


@pytest.mark.parametrize(
    "rule",
    [
        {"kinds": ["list-runs"], "effect": {"type": "ignore-filters", "filters": ["pk__in", "status__in"]}},
        {"kinds": ["get-job"], "effect": {"type": "reply", "status": 403, "body": "enveloped", "message": "hunter2"}},
        {"kinds": ["list-runs"], "effect": {"type": "reply", "status": 200, "body": "html"}},
        None,
    ],
)
async def test_a_record_makes_the_simulator_behave_so_and_names_nobody(rule: Any) -> None:
    async with running(account()) as cloud:
        await with_history(cloud)
        if rule:
            cloud.simulator.faults.add(convert(rule, Rule))
        facts, found = await examine(cloud, job=cloud.job_id)
        recorded = yaml.safe_dump(scenario(facts, found))
        assert [name for name in (*SECRET_NAMES, str(cloud.account_id), cloud.host) if name in recorded] == []
    async with running(parse(recorded)) as again:
        await with_history(again)
        _, same = await examine(again, job=again.job_id)
        assert in_the_way(same).keys() == in_the_way(found).keys()


async def test_a_record_has_the_jobs_and_how_they_end() -> None:
    async with running(account()) as cloud:
        await with_history(cloud)
        facts, found = await examine(cloud)
        jobs = scenario(facts, found)["jobs"]
        assert [job["name"] for job in jobs] == ["job 1", "job 2", "job 3"]
        assert jobs[0]["steps"] == ["dbt build"]
        assert jobs[0]["outcomes"] == ["success"] * 3
