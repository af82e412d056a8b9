"""The performer against an API server that is slow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

import httpx
import pytest
from msgspec.structs import replace

from dbtrun.api import DbtRun, Job, Metadata, Phase, Reason, Spec, Status
from dbtrun.connection.secret import Connection, Token
from dbtrun.kube.errors import Conflict, NotFound
from tests.unit.dbtcloud import account
from tests.unit.dbtcloud.heard import Heard
from tests.unit.virtual import NOON, clock
from watcher.cluster.mirror import Mirror
from watcher.cluster.scope import is_older
from watcher.connections import Unusable
from watcher.dbtcloud.accounts import Account, Accounts
from watcher.dbtcloud.budget import Priority
from watcher.lifecycle.decide import decide
from watcher.lifecycle.decisions import ClaimStart, Connect, DeleteObject, FetchDetails, ProveToken, Resume, Write
from watcher.lifecycle.facts import Trouble
from watcher.lifecycle.known import DetailsTry, Known
from watcher.lifecycle.policy import Policy
from watcher.perform import Performer
from watcher.telemetry.metrics import Metrics

pytestmark = pytest.mark.looptime

POLICY = Policy()


class SlowObjects:
    """An API server that takes a write a second."""

    def __init__(self) -> None:
        self._one = asyncio.Lock()

    async def patch_status(self, run: DbtRun, status: Status) -> DbtRun:
        async with self._one:
            await asyncio.sleep(1)
        return replace(run, status=status)


class OneAccount:
    """Connections that all lead to one account."""

    def __init__(
        self, answer: Callable[[httpx.Request], httpx.Response] = lambda _request: httpx.Response(500)
    ) -> None:
        connection = Connection(host="dbt.example.com", account_id=1, token=Token("t"))
        accounts = Accounts(Heard(), transport=httpx.MockTransport(answer), clock=clock)
        self._account = accounts.use("uid", connection)
        self._account.share.heard(200)

    def account(self, _uid: str) -> Account:
        return self._account

    def doubt(self, _uid: str, _reason: Reason) -> None: ...


def wanted(number: int) -> DbtRun:
    finalizers = ("dbtrun.dev/run",)
    metadata = Metadata(
        name=f"r{number}",
        namespace="n",
        uid=f"u{number}",
        resource_version="1",
        finalizers=finalizers,
        annotations={"dbtrun.dev/uid": f"u{number}"},
    )
    return DbtRun(metadata=metadata, spec=Spec(job=Job(id=1)))


def performing(
    objects: object,
    record: Callable[[DbtRun], object] = lambda _run: None,
    forget_object: Callable[[str], object] = lambda _uid: None,
) -> Performer:
    return Performer(
        objects=cast(Any, objects),
        record=record,
        forget_object=forget_object,
        connections=cast(Any, OneAccount()),
        emit=lambda _run, _event: None,
        clock=clock,
        metrics=Metrics(),
    )


async def test_a_claim_is_still_good_when_a_slow_api_server_has_taken_it() -> None:
    performer = performing(SlowObjects())
    known = Known(account_id=1, untried=1)
    ages = []

    async def claim(run: DbtRun) -> None:
        decision = decide(run, known, clock(), POLICY)
        assert isinstance(decision, ClaimStart)
        assert decision.status.phase is Phase.SUBMITTING
        after = await performer.perform(decision, run, known)
        assert after.claim is not None
        ages.append(clock().mono - after.claim.since)

    await asyncio.gather(*(claim(wanted(number)) for number in range(100)))
    assert max(ages) < POLICY.submit_window / 2


class GoingObjects:
    """An API server whose object changed, and is gone when it is looked at again."""

    async def patch_status(self, run: DbtRun, _status: Status) -> DbtRun:
        raise Conflict(f"{run} has changed")

    async def get(self, _namespace: str, name: str) -> DbtRun:
        raise NotFound(f"{name} not found")


async def test_an_answered_start_gives_its_place_to_the_next() -> None:
    performer, run, known = performing(SlowObjects()), wanted(1), Known(account_id=1, untried=1)
    starts = cast(Account, performer.connections.account(run.uid)).starts
    known = await performer.perform(decide(run, known, clock(), POLICY), run, known)
    assert starts.under_way == 1
    known = await performer.perform(Resume(7), run, known)
    assert known.claim is not None
    assert known.claim.sent
    assert starts.under_way == 0


async def test_a_connection_that_cannot_be_used_is_a_trouble() -> None:
    class Unconnected(OneAccount):
        async def connect(self, _run: DbtRun) -> Connection:
            raise Unusable("There is no Secret.")

    performer = performing(SlowObjects())
    performer.connections = cast(Any, Unconnected())
    after = await performer.perform(Connect(), wanted(1), Known(account_id=1))
    assert after.trouble is not None
    assert (after.trouble.reason, after.trouble.message) == (Reason.INVALID_CONNECTION, "There is no Secret.")
    assert after.account_id is None


async def test_an_object_that_goes_while_it_is_written_is_forgotten() -> None:
    forgotten: list[str] = []
    performer = performing(GoingObjects(), forget_object=forgotten.append)
    await performer.perform(Write(Status(phase=Phase.PENDING)), wanted(1), Known())
    assert forgotten == ["u1"]


@pytest.mark.parametrize("kept", [True, False])
async def test_an_object_that_somebody_else_keeps_is_not_forgotten_when_it_is_deleted(kept: bool) -> None:
    """Else a list that has it would look like a restore from a backup, which brings back what was gone."""
    run = wanted(1)
    going = replace(run, metadata=replace(run.metadata, resource_version="2", deletion_timestamp=NOON))

    class Keeping:
        async def delete(self, _run: DbtRun) -> DbtRun | None:
            mirror.take(going)  # the watch is quicker than the answer
            return going if kept else None

    mirror = Mirror()
    mirror.take(run)
    performer = performing(Keeping(), record=mirror.record, forget_object=mirror.forget)
    await performer.perform(DeleteObject(), run, Known())
    assert (mirror.get(run.uid) is not None) is kept
    assert is_older(run.uid, "2", mirror.versions("n")) is not kept


def ending(phase: Phase, **times: Any) -> Write:
    return Write(Status(phase=phase, job_id=7, completion_time=NOON, **times))


async def counted(*decisions: Write) -> Metrics:
    """The metrics after these writes of an object that was running."""

    class Objects:
        async def patch_status(self, run: DbtRun, status: Status) -> DbtRun:
            return replace(run, status=status)

    performer = performing(Objects())
    for decision in decisions:
        await performer.perform(decision, wanted(1), Known())
    return performer.metrics


async def test_an_end_is_counted_with_its_job_and_a_success_with_its_duration() -> None:
    times = {"started_at": NOON, "finished_at": NOON + timedelta(seconds=90)}
    metrics = await counted(ending(Phase.SUCCEEDED, **times), ending(Phase.FAILED, **times), ending(Phase.FAILED))
    job = {"namespace": "n", "job_id": "7"}
    shown = metrics.registry.get_sample_value
    assert shown("dbtrun_job_finished_total", {**job, "phase": "Succeeded"}) == 1
    assert shown("dbtrun_job_finished_total", {**job, "phase": "Failed"}) == 2
    assert shown("dbtrun_job_duration_seconds_sum", job) == 90
    assert shown("dbtrun_job_duration_seconds_count", job) == 1


async def test_an_object_that_never_had_a_run_is_counted_with_the_job_that_it_asks_for() -> None:
    metrics = await counted(Write(Status(phase=Phase.ERROR)))
    asked = {"namespace": "n", "job_id": "1", "phase": "Error"}
    assert metrics.registry.get_sample_value("dbtrun_job_finished_total", asked) == 1


async def test_watched_runs_are_looked_at_in_turn_and_not_while_others_need_the_budget() -> None:
    connections = OneAccount()
    performer = performing(None)
    performer.connections = cast(Any, connections)
    used, asked = connections.account(""), Priority.DETAILS
    look = FetchDetails(7, over=False, watched=True)

    async def tried(known: Known) -> DetailsTry:
        after = await performer.perform(look, wanted(1), known)
        assert after.details is not None
        return after.details

    first = await tried(Known(account_id=1))
    assert (used.budget.spent[asked], first.turn) == (1, None)
    second = await tried(Known(account_id=1))
    assert (used.budget.spent[asked], second.turn) == (1, clock().mono + 0.4)
    await asyncio.sleep(0.4)
    assert (await tried(Known(account_id=1, details=second))).turn is None
    assert used.budget.spent[asked] == 2
    used.budget.charge(30)
    await asyncio.sleep(0.4)
    assert await tried(Known(account_id=1)) == DetailsTry(run_id=7, at=clock().mono, tries=1, over=False)
    assert used.budget.spent[asked] == 2


async def test_steps_that_nobody_watches_are_read_at_once_as_the_object_had_its_turn() -> None:
    connections = OneAccount()
    performer = performing(None)
    performer.connections = cast(Any, connections)
    for _ in range(2):
        after = await performer.perform(FetchDetails(7, over=False), wanted(1), Known(account_id=1))
        assert after.details is not None
    assert connections.account("").budget.spent[Priority.DETAILS] == 2


async def test_a_token_that_is_taken_for_a_question_is_proven_and_the_trouble_stays() -> None:
    """Only a start shows that the token may start; else a job that it may not start would be tried for ever."""

    def answer(_request: httpx.Request) -> httpx.Response:
        return account.listing([]) if willing else account.refusal(401, "Invalid token.")

    connections = OneAccount(answer)
    performer = performing(None)
    performer.connections = cast(Any, connections)
    refused = Trouble(reason=Reason.UNAUTHORIZED, message="401", since=clock(), retry_at=clock().mono)
    before, willing = Known(account_id=1, trouble=refused), False
    after = await performer.perform(ProveToken(1), wanted(1), before)
    assert after.trouble is not None
    assert (after.proven_at, after.trouble.since) == (None, refused.since)
    assert (after.trouble.retry_at or 0) > clock().mono, "it pauses before the next question"
    await asyncio.sleep(120)
    willing = True
    now = clock().mono
    after = await performer.perform(ProveToken(1), wanted(1), before)
    assert (after.proven_at, after.trouble) == (now, refused)
