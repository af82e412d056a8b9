"""The trace of an attempt: what took place, in order, whatever the clocks say."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from dbtrun.api import TRACEPARENT_ANNOTATION, Attempt, DbtRun, Phase, Reason, Status
from tests.unit.lifecycle.builders import ACCOUNT, JOB, RUN, UID, run, wall
from watcher.lifecycle.spans import Trace, ended_traces

CLAIMED = Attempt(number=1, phase=Phase.RUNNING, claim_time=wall(5), queued_at=wall(7), run_id=RUN)
ENDED = replace(CLAIMED, phase=Phase.SUCCEEDED, reason=Reason.RUN_SUCCEEDED, started_at=wall(20), finished_at=wall(80))
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def before(*attempts: Attempt) -> DbtRun:
    return run(Status(phase=Phase.RUNNING, attempts=attempts))


def after(*attempts: Attempt) -> Status:
    return Status(account_id=ACCOUNT, job_id=JOB, host="cloud.getdbt.com", attempts=attempts)


def traces(known: DbtRun, *attempts: Attempt, seconds: float = 82) -> list[Trace]:
    return list(ended_traces(known, after(*attempts), wall(seconds)))


def spans(trace: Trace) -> dict[str, tuple[float, float]]:
    return {
        name: ((start - wall(0)).total_seconds(), (end - wall(0)).total_seconds()) for name, start, end in trace.spans
    }


def test_an_attempt_waits_is_started_runs_and_is_told() -> None:
    (trace,) = traces(before(CLAIMED), ENDED)
    assert spans(trace) == {"claim": (0, 5), "start": (5, 7), "wait": (7, 80), "end": (80, 82)}
    assert trace.failed is None
    assert trace.linked is None
    assert trace.attributes == {
        "k8s.namespace.name": "data",
        "dbtrun.name": "nightly",
        "dbtrun.uid": UID,
        "dbtrun.attempt": 1,
        "dbtrun.phase": "Succeeded",
        "dbtrun.reason": "RunSucceeded",
        "dbt_cloud.host": "cloud.getdbt.com",
        "dbt_cloud.account_id": ACCOUNT,
        "dbt_cloud.job_id": JOB,
        "dbt_cloud.run_id": RUN,
    }


def test_an_attempt_is_told_once() -> None:
    assert traces(before(), CLAIMED) == []
    assert traces(before(CLAIMED), CLAIMED) == []
    assert traces(before(ENDED), ENDED) == []


def test_each_attempt_has_a_trace_which_begins_where_the_last_one_ended() -> None:
    failed = replace(ENDED, phase=Phase.FAILED, message="It failed.")
    second = Attempt(number=2, phase=Phase.PENDING)
    (first,) = traces(before(CLAIMED), failed, second)
    assert first.failed == "It failed."
    again = replace(ENDED, number=2, claim_time=wall(110), queued_at=wall(111), finished_at=wall(200))
    (trace,) = traces(before(failed, second), failed, again, seconds=201)
    assert trace.attributes["dbtrun.attempt"] == 2
    assert spans(trace)["claim"] == (80, 110)


def test_an_attempt_that_never_reached_dbt_cloud_has_what_took_place() -> None:
    never = Attempt(number=1, phase=Phase.ERROR, reason=Reason.INVALID_CONNECTION, message="No Secret.")
    (trace,) = traces(before(), never, seconds=600)
    assert spans(trace) == {"end": (0, 600)}
    assert "dbt_cloud.run_id" not in trace.attributes


@pytest.mark.parametrize("behind", [3, 1000])
def test_no_span_ends_before_it_begins(behind: float) -> None:
    """dbt Cloud's clock is behind."""
    skewed = replace(ENDED, queued_at=wall(7 - behind), finished_at=wall(80 - behind))
    (trace,) = traces(before(CLAIMED), skewed)
    told = spans(trace)
    assert all(start <= end for start, end in told.values())
    assert told["end"][1] == 82


def test_an_object_without_a_creation_time_begins_now() -> None:
    known = before(CLAIMED)
    known = replace(known, metadata=replace(known.metadata, creation_timestamp=None))
    (trace,) = traces(known, ENDED)
    assert spans(trace)["claim"] == (82, 82)


def test_the_trace_of_whoever_created_the_object_is_linked() -> None:
    known = before(CLAIMED)
    known = replace(known, metadata=replace(known.metadata, annotations={TRACEPARENT_ANNOTATION: PARENT}))
    (trace,) = traces(known, ENDED)
    assert trace.linked == PARENT
