"""What earlier runs tell of the next: how long it takes, and how often the job has failed."""

from __future__ import annotations

import random
import statistics
from dataclasses import replace as facts_with
from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from dbtrun.api import Attempt, DbtRun, Job, Overrides, Phase, Status
from tests.unit.lifecycle.builders import ACCOUNT, JOB, RUN, facts, following, live, run, seen, wall, written
from watcher.lifecycle import history
from watcher.lifecycle.facts import RunFacts, RunState
from watcher.lifecycle.history import KEPT, History, JobKey, Streaks, typical

HOST = "cloud.getdbt.com"
KEY = JobKey(HOST, ACCOUNT, JOB)


def ended(
    number: int, seconds: float, phase: Phase = Phase.SUCCEEDED, *, attempt: Attempt | None = None, **spec: Any
) -> DbtRun:
    """An object whose run is the job's number."""
    status = Status(
        phase=phase,
        host=HOST,
        account_id=ACCOUNT,
        job_id=JOB,
        run_id=number,
        started_at=wall(10_000 * number),
        finished_at=wall(10_000 * number + seconds),
        completion_time=wall(10_000 * number + seconds),
        attempts=(attempt or Attempt(number=1, phase=phase),),
    )
    obj = run(status, **spec)
    return replace(obj, metadata=replace(obj.metadata, uid=f"uid-{number}"))


def elsewhere(number: int, seconds: float, **changes: Any) -> RunFacts:
    plain = facts(RunState.SUCCESS, run_id=number, started_at=wall(0), finished_at=wall(seconds))
    return facts_with(plain, **changes)


def after(*runs: DbtRun) -> History:
    known = History()
    for each in runs:
        known.note(each)
    return known


def running(**spec: Any) -> DbtRun:
    return run(replace(live(), host=HOST, account_id=ACCOUNT, job_id=JOB), **spec)


# ── how long ──


def test_a_job_takes_as_long_as_its_runs_usually_do() -> None:
    known = after(ended(1, 100), ended(2, 110), ended(3, 900))
    assert known.typical_of(running()) == timedelta(seconds=110)


def test_what_was_worked_out_holds_until_another_run_ends() -> None:
    known = after(ended(1, 100), ended(2, 110), ended(3, 900))
    assert known.typical(KEY) == known.typical(KEY) == timedelta(seconds=110)
    known.note(ended(4, 900))
    known.note(ended(5, 900))
    assert known.typical(KEY) == timedelta(seconds=900)


@pytest.mark.parametrize("seconds", [(), (100,)])
def test_too_few_runs_tell_nothing(seconds: tuple[float, ...]) -> None:
    assert typical(seconds) is None
    assert after(*(ended(1, each) for each in seconds)).typical_of(running()) is None


def test_another_job_tells_nothing() -> None:
    known = after(ended(1, 100), ended(2, 110))
    assert known.typical(KEY._replace(job_id=JOB + 1)) is None
    assert known.typical(KEY._replace(account_id=ACCOUNT + 1)) is None
    assert known.typical(KEY._replace(host="emea.dbt.com")) is None
    assert known.typical_of(run(live())) is None, "its job is not known yet"


def test_a_failure_tells_nothing_of_a_success() -> None:
    assert after(ended(1, 5, Phase.FAILED), ended(2, 5, Phase.CANCELLED), ended(3, 100)).typical(KEY) is None


RESUMED = Attempt(number=2, phase=Phase.SUCCEEDED, retry_of=RUN)
STEPS = Overrides(steps=("dbt seed",))


def test_a_run_that_does_not_do_the_whole_job_tells_nothing() -> None:
    whole = ended(1, 100), ended(2, 100)
    parts = ended(3, 5, attempt=RESUMED), ended(4, 5, overrides=STEPS), ended(5, 5, attempt=RESUMED)
    assert after(*whole, *parts).typical(KEY) == timedelta(seconds=100)


def test_a_run_that_does_not_do_the_whole_job_is_not_judged_by_the_others() -> None:
    known = after(ended(1, 100), ended(2, 100))
    assert known.typical_of(running(overrides=STEPS)) is None
    resumed = run(replace(live(retry_of=RUN - 1, number=2), host=HOST, account_id=ACCOUNT, job_id=JOB))
    assert known.typical_of(resumed) is None


def test_a_run_that_somebody_else_started_counts() -> None:
    known = History()
    known.note_facts(HOST, elsewhere(1, 100))
    known.note_facts(HOST, elsewhere(2, 100))
    assert known.typical(KEY) == timedelta(seconds=100)


@pytest.mark.parametrize(
    "useless",
    [{"state": RunState.ERROR}, {"started_at": None}, {"finished_at": None}, {"retrying_run_id": 7}],
    ids=lambda changes: next(iter(changes)),
)
def test_of_the_runs_of_others_only_whole_successes_count(useless: dict[str, Any]) -> None:
    known = History()
    for number in (1, 2):
        known.note_facts(HOST, elsewhere(number, 100, **useless))
    assert known.typical(KEY) is None


def test_what_the_object_knows_of_its_run_is_not_overruled() -> None:
    """The list of what finished has the same run, and does not say that it had steps of its own."""
    known = after(ended(1, 100), ended(2, 100), *(ended(number, 5, overrides=STEPS) for number in (3, 4, 5)))
    for number in (3, 4, 5):
        known.note_facts(HOST, elsewhere(number, 5))
    assert known.typical(KEY) == timedelta(seconds=100)


def test_an_object_without_a_run_tells_nothing() -> None:
    bare = ended(1, 100)
    for missing in ("run_id", "started_at", "finished_at", "job_id"):
        assert after(*(replace(bare, status=replace(bare.status, **{missing: None})),) * 2)._jobs == {}


def test_clocks_that_go_back_tell_nothing() -> None:
    assert after(ended(1, -5), ended(2, -5)).typical(KEY) is None


def test_the_newest_runs_count_in_whatever_order_they_are_listed() -> None:
    runs = [ended(number, 100 if number <= KEPT else 200) for number in range(1, 2 * KEPT + 1)]
    random.Random(1).shuffle(runs)  # noqa: S311 - repeatable
    assert after(*runs).typical(KEY) == timedelta(seconds=200)


def test_the_job_that_has_not_run_for_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_JOBS", 2)
    known, streaks = History(), Streaks()
    for job_id in (1, 2, 1, 3):
        end = ended(job_id, 100, Phase.FAILED)
        end = replace(end, status=replace(end.status, job_id=job_id))
        known.note(end)
        known.typical_of(end)
        streaks.note(end)
    assert {key.job_id for key in known._jobs} == {key.job_id for key in known._typical} == {1, 3}
    assert streaks.failures().keys() == {("data", 1), ("data", 3)}


def test_500_replayed_runs_are_estimated_well() -> None:
    """50 jobs run ten times each. The logarithm of a duration varies by 0.2 (two thirds of the runs are within about
    20 % of the job's median), one run in 20 takes three times as long, and each job becomes 2 % slower with each run.
    """
    dice, errors, absent = random.Random(4711), [], 0  # noqa: S311 - repeatable
    for job_id in range(1, 51):
        known, usual = History(), dice.uniform(60, 7_200)
        for number in range(1, 11):
            seconds = usual * 1.02**number * dice.lognormvariate(0, 0.2) * (3 if dice.random() < 0.05 else 1)
            obj = run(replace(live(), host=HOST, account_id=ACCOUNT, job_id=job_id), job=Job(id=job_id))
            told = written(obj, following(obj, seen(facts()), typical=known.typical_of(obj))).estimated_completion_time
            if told is None:
                absent += 1
            else:
                errors.append(abs((told - wall(10)).total_seconds() - seconds) / seconds)
            end = ended(number, seconds)
            known.note(replace(end, status=replace(end.status, job_id=job_id)))
    assert absent == 50 * 2, "the first two runs of each job, of which nothing is known"
    assert statistics.median(errors) <= 0.20
    assert statistics.median(errors) >= 0.05, "the spread is not as stated"


# ── how often it has failed ──


def failures(*phases: Phase) -> int:
    streaks = Streaks()
    for number, phase in enumerate(phases, start=1):
        streaks.note(ended(number, 100, phase))
    return streaks.failures().get(("data", JOB), 0)


def test_failures_count_since_the_last_success() -> None:
    assert failures(Phase.FAILED, Phase.SUCCEEDED, Phase.FAILED, Phase.TIMED_OUT, Phase.ERROR) == 3
    assert failures(Phase.FAILED, Phase.SUCCEEDED) == 0
    assert failures() == 0


def test_a_cancelled_object_says_nothing() -> None:
    assert failures(Phase.FAILED, Phase.CANCELLED) == 1
    assert failures(Phase.CANCELLED) == 0


def test_an_object_that_is_told_again_counts_once() -> None:
    assert failures(*[Phase.FAILED] * 3) == 3
    streaks = Streaks()
    for _ in range(3):
        streaks.note(ended(1, 100, Phase.FAILED))
    assert streaks.failures() == {("data", JOB): 1}


def test_failures_are_counted_in_the_order_of_their_ends() -> None:
    streaks = Streaks()
    for number, phase in ((3, Phase.FAILED), (1, Phase.FAILED), (2, Phase.SUCCEEDED)):
        streaks.note(ended(number, 100, phase))
    assert streaks.failures() == {("data", JOB): 1}


def test_more_failures_than_are_kept() -> None:
    assert failures(*[Phase.FAILED] * (KEPT + 5)) == KEPT


def test_a_job_that_was_never_started_fails_too() -> None:
    streaks = Streaks()
    never = Status(phase=Phase.ERROR, completion_time=wall(0))
    streaks.note(run(never))
    streaks.note(run(never, job=Job(name="nightly", project="a", environment="b")))
    streaks.note(run(never, run_id=RUN))
    assert streaks.failures() == {("data", JOB): 1}
