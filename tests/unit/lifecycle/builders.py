"""Short ways to say an object, what is known of it and the moment: every test states only what it is about."""

from __future__ import annotations

from dataclasses import replace as known_with
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

from msgspec.structs import replace

from dbtrun.api import (
    FINALIZER,
    UID_ANNOTATION,
    Attempt,
    ConditionStatus,
    ConditionType,
    DbtRun,
    Job,
    Metadata,
    Phase,
    Reason,
    Results,
    Spec,
    Status,
)
from dbtrun.values import Instant
from watcher.lifecycle.decide import Interest, decide, interest
from watcher.lifecycle.decisions import Decision, Wait, Write
from watcher.lifecycle.facts import Observation, RunFacts, RunState, StepFacts, Trouble
from watcher.lifecycle.known import Claim, Known, LookUp, ResultsTry, remember
from watcher.lifecycle.marker import marker
from watcher.lifecycle.policy import Policy

UID: Final = "5f1d7a84-0d43-4d0c-9d6b-8e51c7a2b9f0"
JOB: Final = 321
RUN: Final = 70_403_100_000_001
ACCOUNT: Final = 42
START: Final = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
BEFORE: Final = START - timedelta(hours=1)
"""When a watcher began that saw the object being created."""
POLICY: Final = Policy()
MARK: Final = marker(UID, 1)

D = TypeVar("D")


def at(seconds: float) -> Instant:
    """The moment so many seconds after the start of the story."""
    return Instant(START + timedelta(seconds=seconds), 1_000.0 + seconds)


def wall(seconds: float) -> datetime:
    return at(seconds).wall


def mono(seconds: float) -> float:
    return at(seconds).mono


def run(
    status: Status | None = None, *, held: bool = True, deleted: float | None = None, generation: int = 1, **spec: Any
) -> DbtRun:
    """An object; it starts job 321 unless it says `run_id` or another `job`."""
    if "run_id" not in spec:
        spec.setdefault("job", Job(id=JOB))
    metadata = Metadata(
        name="nightly",
        namespace="data",
        uid=UID,
        resource_version="1",
        creation_timestamp=START,
        generation=generation,
        finalizers=(FINALIZER,) if held else (),
        annotations={UID_ANNOTATION: UID} if held else {},
        deletion_timestamp=None if deleted is None else wall(deleted),
    )
    return DbtRun(metadata=metadata, spec=Spec(**spec), status=status or Status())


def facts(state: RunState = RunState.RUNNING, **changes: Any) -> RunFacts:
    """What dbt Cloud tells of run 70403100000001: queued at 0 s, begun at 10 s unless it is queued."""
    begun = None if state is RunState.QUEUED else wall(10)
    plain = RunFacts(
        run_id=RUN,
        account_id=ACCOUNT,
        job_id=JOB,
        state=state,
        created_at=START,
        started_at=begun,
        url="https://dbt/run",
    )
    return known_with(plain, **changes)


def seen(run: RunFacts | None, seconds: float = 20, **changes: Any) -> Observation:
    return Observation(run=run, at=at(seconds), **changes)


def known(**changes: Any) -> Known:
    """A connected watcher's knowledge; it worked already when the object was created."""
    return Known(**{"account_id": ACCOUNT, "answered": True, "since": BEFORE, **changes})


def trouble(
    reason: Reason = Reason.UNREACHABLE, since: float = 0, retry_at: float | None = None, message: str = "No route."
) -> Trouble:
    return Trouble(reason=reason, message=message, since=at(since), retry_at=retry_at and mono(retry_at))


def step(
    index: int, state: int = 10, name: str = "dbt build", started_at: datetime | None = START, log: str = ""
) -> StepFacts:
    status = "Success" if state >= 10 else "Running"
    return StepFacts(index=index, name=name, state=state, status=status, started_at=started_at, log=log)


def claimed(number: int = 1, claimed_at: float = 0, **changes: Any) -> Status:
    """A status that claims a start."""
    attempt = Attempt(
        number=number,
        phase=Phase.SUBMITTING,
        marker=marker(UID, number),
        claim_time=wall(claimed_at),
        first_claim_time=wall(claimed_at),
    )
    attempt = replace(attempt, **changes)
    return Status(phase=Phase.SUBMITTING, reason=Reason.CLAIMED, job_id=JOB, start_time=START, attempts=(attempt,))


def claim(run: DbtRun, *, own: bool = True, since: float = 0, **changes: Any) -> Claim:
    """The watcher's memory of the object's claim."""
    attempt = run.status.attempt
    assert attempt is not None
    assert attempt.claim_time is not None
    return Claim(number=attempt.number, time=attempt.claim_time, since=mono(since), own=own, **changes)


def looked(seconds: float, *found: RunFacts, tries: int = 1) -> LookUp:
    return LookUp(at=mono(seconds), tries=tries, found=found)


def live(
    phase: Phase = Phase.RUNNING, reason: Reason = Reason.RUN_STARTED, *, number: int = 1, **attempt: Any
) -> Status:
    """A status whose attempt has run 70403100000001."""
    begun = None if phase is Phase.QUEUED else wall(10)
    times = {"queued_at": START, "started_at": begun}
    latest = Attempt(
        **{"number": number, "phase": phase, "marker": marker(UID, number), "run_id": RUN, **times, **attempt}
    )
    return Status(
        phase=phase,
        reason=reason,
        account_id=ACCOUNT,
        job_id=JOB,
        run_id=RUN,
        start_time=START,
        queued_at=START,
        started_at=begun,
        attempts=(latest,),
    )


def over(phase: Phase = Phase.SUCCEEDED, reason: Reason = Reason.RUN_SUCCEEDED, **attempt: Any) -> Status:
    """A status that is final, ended at 60 s."""
    status = live(phase, reason, **attempt)
    return replace(status, message="It is over.", completion_time=wall(60), finished_at=wall(59))


def next_step(obj: DbtRun, memory: Known, seconds: float = 20, policy: Policy = POLICY) -> Decision:
    """What the core decides, as the shell asks it."""
    now = at(seconds)
    return decide(obj, remember(obj, memory, now), now, policy)


def decided(kind: type[D], obj: DbtRun, memory: Known, seconds: float = 20, policy: Policy = POLICY) -> D:
    """The decision, which is of this kind; if that is no write, once the object says how it stands."""
    decision = next_step(obj, memory, seconds, policy)
    if isinstance(decision, Write) and kind is not Write:
        decision = next_step(replace(obj, status=decision.status), memory, seconds, policy)
    assert isinstance(decision, kind), decision
    return decision


def interested(obj: DbtRun, memory: Known, seconds: float = 20) -> Interest | None:
    """What the poller shall watch."""
    return interest(obj, memory, at(seconds), POLICY)


def written(obj: DbtRun, memory: Known, seconds: float = 20) -> Status:
    """The status that is written now."""
    return decided(Write, obj, memory, seconds).status


def rested(obj: DbtRun, memory: Known, seconds: float = 20) -> tuple[DbtRun, float]:
    """The object once it says how it stands, and until when it then rests (seconds of the story)."""
    decision = next_step(obj, memory, seconds)
    if isinstance(decision, Write):
        obj = replace(obj, status=decision.status)
        decision = next_step(obj, memory, seconds)
    assert isinstance(decision, Wait), decision
    assert decision.until is not None
    return obj, decision.until - mono(0)


def following(obj: DbtRun, observation: Observation | None = None, **changes: Any) -> Known:
    """A watcher that follows the object's run, and what it last saw of it."""
    number = obj.status.attempt.number if obj.status.attempt and obj.status.attempt.run_id else 0
    about = obj.status.run_id or obj.spec.run_id
    past = {"submitted": number, "submitted_at": mono(20) if number else 0.0}
    live = observation is not None and observation.run is not None and not observation.run.state.over
    past |= {"untried": number + 1} if number and live else {}
    return known(about=about, observation=observation, **{**past, **changes})


def read(results: Results | None = None, *, tries: int = 1, done: bool = True, run_id: int = RUN) -> ResultsTry:
    """The outcome by node, asked for after the end."""
    return ResultsTry(run_id=run_id, tries=tries, done=done, results=results)


def condition(status: Status, kind: ConditionType) -> ConditionStatus:
    found = status.condition(kind)
    assert found is not None
    return found.status
