"""Which DbtRuns are kept, and how fast they come and go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dbtrun.api import FINAL_PHASES, Phase
from dbtrun.api.mirrors import HistoryLimit
from tests.unit.mirrors.runs import at
from watcher.bucket import Bucket
from watcher.mirrors.pruning import Kept, surplus


def kept(number: int, seconds: float, *, job: int = 1, phase: Phase = Phase.SUCCEEDED) -> Kept:
    name, ended = f"m-{number}", at(seconds)
    return Kept(
        uid=f"u{number}", name=name, run_id=number, job_id=job, phase=phase, finished_at=ended, completed_at=ended
    )


def test_the_oldest_go_first() -> None:
    runs = [kept(1, 30), kept(2, 10), kept(3, 20)]
    assert [run.name for run in surplus(runs, HistoryLimit(succeeded=1))] == ["m-2", "m-3"]


def test_each_job_has_its_own_history() -> None:
    runs = [kept(1, 10, job=1), kept(2, 20, job=2)]
    assert surplus(runs, HistoryLimit(succeeded=1)) == []


def test_successes_do_not_push_failures_out() -> None:
    runs = [kept(1, 10, phase=Phase.FAILED), *(kept(number, number * 10) for number in range(2, 9))]
    gone = surplus(runs, HistoryLimit(succeeded=2, failed=1))
    assert [run.name for run in gone] == ["m-2", "m-3", "m-4", "m-5", "m-6"]


def test_everything_that_did_not_succeed_counts_as_failed() -> None:
    runs = [kept(number, number, phase=phase) for number, phase in enumerate(sorted(FINAL_PHASES - {Phase.SUCCEEDED}))]
    assert len(surplus(runs, HistoryLimit(failed=1))) == len(runs) - 1


def test_a_limit_of_zero_keeps_none() -> None:
    assert len(surplus([kept(1, 1), kept(2, 2, phase=Phase.ERROR)], HistoryLimit(succeeded=0, failed=0))) == 2


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 2), st.sampled_from(sorted(FINAL_PHASES))), max_size=30),
    st.integers(0, 4),
    st.integers(0, 4),
)
def test_what_is_left_is_the_newest_of_each(
    given_runs: list[tuple[int, int, Phase]], succeeded: int, failed: int
) -> None:
    limit = HistoryLimit(succeeded=succeeded, failed=failed)
    runs = [kept(n, seconds, job=job, phase=phase) for n, (seconds, job, phase) in enumerate(given_runs)]
    gone = surplus(runs, limit)
    left = [run for run in runs if run not in gone]
    for run in gone:
        same = [
            one
            for one in left
            if one.job_id == run.job_id and (one.phase is Phase.SUCCEEDED) == (run.phase is Phase.SUCCEEDED)
        ]
        assert len(same) == limit.of(run.phase)
        assert all(one.order > run.order for one in same)
    assert surplus(left, limit) == []
    assert gone == sorted(gone, key=lambda run: run.order)


# ---- the rate


def test_a_minutes_worth_at_once_and_then_at_the_rate() -> None:
    bucket = Bucket(60, 0.0)
    assert sum(bucket.take(0.0) for _ in range(100)) == 60
    assert [bucket.take(0.5), bucket.take(1.0), bucket.take(1.5)] == [False, True, False]
    assert bucket.left(1000.0) == 60


def test_an_hour_lets_no_more_through_than_its_minutes_and_a_burst() -> None:
    bucket = Bucket(30, 0.0)
    assert sum(bucket.take(second / 10) for second in range(36_000)) in (30 * 60 + 29, 30 * 60 + 30)


def test_a_lower_rate_counts_at_once() -> None:
    bucket = Bucket(60, 0.0)
    bucket.resize(2)
    assert bucket.left(0.0) == 2
    bucket.resize(60)
    assert bucket.left(60.0) == 60


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = Bucket(1, 100.0)
    assert bucket.take(100.0)
    assert not bucket.take(50.0)


def test_runs_of_one_second_go_in_the_order_of_their_ids() -> None:
    runs = [kept(10, 5), kept(9, 5)]
    assert [run.name for run in surplus(runs, HistoryLimit(succeeded=1))] == ["m-9"]
