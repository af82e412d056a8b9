"""Whatever is done to an account, in whatever order: these things hold, and a restart at any point changes nothing."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.contract.conftest import SCENARIO, scenario
from watcher.simulator.clock import Clock
from watcher.simulator.model import Account, Run, Status, TriggerRequest
from watcher.simulator.testing import ManualTime

SLOTS = 3
ROUNDING = 1e-5  # seconds: a stamp beside a change of speed
JOBS = [job["id"] for job in SCENARIO["jobs"]]


class Life(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.time = ManualTime()
        self.account = Account(scenario(account={"run_slots": SLOTS}), Clock(source=self.time))
        self.ended: dict[int, object] = {}

    def a_run(self, pick: int) -> Run:
        runs = list(self.account.runs.values())
        return runs[pick % len(runs)]

    @rule(job=st.sampled_from(JOBS))
    def start(self, job: int) -> None:
        self.account.start(self.account.jobs[job], TriggerRequest(cause="x"))

    @rule(job=st.sampled_from(JOBS))
    def rerun(self, job: int) -> None:
        self.account.rerun(self.account.jobs[job])

    @precondition(lambda self: self.account.runs)
    @rule(pick=st.integers(0, 1000))
    def cancel(self, pick: int) -> None:
        self.account.cancel(self.a_run(pick))

    @precondition(lambda self: self.account.live)
    @rule(pick=st.integers(0, 1000), status=st.sampled_from([Status.SUCCESS, Status.ERROR, Status.CANCELLED]))
    def finish(self, pick: int, status: Status) -> None:
        live = list(self.account.live.values())
        self.account.finish(live[pick % len(live)], status)

    @rule(seconds=st.floats(0, 30))
    def wait(self, seconds: float) -> None:
        self.time.move(seconds)
        self.account.advance()

    @rule(speed=st.floats(0.1, 100))
    def change_speed(self, speed: float) -> None:
        self.account.set_clock(speed, None)

    @rule()
    def restart(self) -> None:
        saved = list(self.account.runs.values())
        before, taken = self.account, {job.id: job.taken for job in self.account.jobs.values()}
        self.account = Account(before.scenario, before.clock)
        self.account.restore(msgspec.json.decode(msgspec.json.encode(saved), type=list[Run]), taken)
        assert msgspec.to_builtins(list(self.account.runs.values())) == msgspec.to_builtins(saved)

    @invariant()
    def a_job_runs_one_at_a_time(self) -> None:
        busy = Counter(
            run.job_id for run in self.account.live.values() if run.status > Status.QUEUED and not run.parallel
        )
        assert all(count == 1 for count in busy.values())

    @invariant()
    def no_more_runs_than_slots(self) -> None:
        assert sum(run.status > Status.QUEUED for run in self.account.live.values()) <= SLOTS

    @invariant()
    def times_are_in_order(self) -> None:
        for run in self.account.runs.values():
            stamps = [run.created_at, run.dequeued_at, run.started_at, run.finished_at]
            known = [stamp for stamp in stamps if stamp is not None]
            assert all(later > earlier - ROUNDING for earlier, later in pairwise(known))

    @invariant()
    def what_has_ended_never_changes(self) -> None:
        for run in self.account.runs.values():
            if run.status.final:
                now = msgspec.to_builtins(run)
                assert self.ended.setdefault(run.id, now) == now

    def teardown(self) -> None:
        """Nothing is stuck: with time, every run ends."""
        for _ in range(len(self.account.runs) + 1):
            self.time.move(100_000 * 10)
            self.account.advance()
        assert self.account.live == {}


Life.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestAnAccount = Life.TestCase
