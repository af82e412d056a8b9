"""The parts of one simulator, put together: the account, its clock, its faults, what was counted, what is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from watcher.simulator.clock import Clock
from watcher.simulator.faults import Faults, Rule
from watcher.simulator.journal import Entry, Journal, Requests
from watcher.simulator.model import Account, Run, Status, TriggerRequest
from watcher.simulator.scenario import (
    JobSpec,
    Scenario,
    ScenarioError,
    TokenSpec,
    check_job,
    convert,
    find_project,
)
from watcher.simulator.store import Facts, StateError, Store
from watcher.simulator.webhooks import Webhooks

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from watcher.simulator.journal import Action
    from watcher.simulator.model import Job


class Simulator:
    """:raises StateError: the state file cannot be used, or belongs to another account."""

    def __init__(self, scenario: Scenario, clock: Clock | None = None, state: Path | None = None) -> None:
        self.scenario = scenario
        self.clock = clock or Clock()
        self.account = Account(scenario, self.clock)
        self.faults = Faults(self.clock)
        for rule in scenario.faults:
            self.faults.add(convert(rule, Rule))
        self.webhooks = Webhooks(self.account, self.clock, scenario.seed)
        for spec in scenario.webhooks:
            self.webhooks.add(msgspec.structs.replace(spec))
        self.journal = Journal()
        self.requests = Requests()
        self.tokens: dict[str, TokenSpec] = {}
        self.set_tokens(scenario.tokens)
        self._store = Store(state) if state else None
        if self._store:
            self._restore(self._store)

    # What the API does

    def start(self, job: Job, request: TriggerRequest, *, action: Action = "start") -> Run:
        """Starts a run and stores it."""
        run = self.account.start(job, request, "ui" if action == "ui" else "api")
        return self._note(action, run)

    def retry(self, run: Run) -> Run:
        """Resumes a run and stores the new one."""
        return self._note("retry", self.account.retry(run))

    def rerun(self, job: Job) -> Run:
        """Starts a run again and stores the new one."""
        return self._note("rerun", self.account.rerun(job))

    def cancel(self, run: Run) -> Run:
        """Cancels a run and stores it."""
        if self.account.cancel(run):
            self._note("cancel", run)
        return run

    def finish(self, run: Run, status: Status, message: str | None = None) -> None:
        """Ends a run and stores it."""
        self.account.finish(run, status, message)
        self.save()

    # What the control surface does

    def put_job(self, spec: JobSpec) -> Job:
        """:raises ScenarioError: the job says something impossible."""
        if spec.id is None:
            raise ScenarioError("id: a job put through the control API needs one.")
        check_job(self.scenario, spec, "job")
        old = self.account.jobs.get(spec.id)
        job = self.account.put_job(spec)
        # Another sequence of outcomes begins with its first; any other change leaves the job where it was.
        if old and old.spec.outcomes == spec.outcomes:
            job.taken = old.taken
        self.save([spec])
        return job

    def set_tokens(self, tokens: Sequence[TokenSpec]) -> None:
        """Exactly these tokens are valid from now on.

        :raises ScenarioError: a token names a project that does not exist.
        """
        for index, token in enumerate(tokens):
            for project in token.projects or ():
                find_project(self.scenario, project, f"tokens[{index}].projects")
        self.tokens = {token.token: token for token in tokens}

    def set_clock(self, speed: float | None, offset: float | None) -> None:
        """Sets the clock and stores it."""
        self.account.set_clock(speed, offset)
        self.save()

    # What is kept

    def _note(self, action: Action, run: Run) -> Run:
        self.journal.add(
            Entry(
                time=self.clock.real(),
                action=action,
                run_id=run.id,
                job_id=run.job_id,
                cause=run.request.cause,
                retrying_run_id=run.retrying_run_id,
            )
        )
        self.save()
        return run

    def save(self, jobs: Sequence[JobSpec] = ()) -> None:
        """Make everything so far durable; without a state file it is enough to forget what changed."""
        runs, entries = self.account.take_dirty(), self.journal.take_unsaved()
        if self._store:
            taken = {job.id: job.taken for job in self.account.jobs.values() if job.taken}
            self._store.save(Facts(self.account.spec.id, self.clock.anchor, taken), runs, entries, jobs)

    def _restore(self, store: Store) -> None:
        saved = store.load()
        if saved.facts is None:
            self.save()
            return
        if saved.facts.account_id != self.account.spec.id:
            raise StateError(f"the state file belongs to account {saved.facts.account_id}, name another with --state.")
        self.clock.anchor = saved.facts.anchor
        for spec in saved.jobs:
            self.account.put_job(spec)
        strange = next((run.job_id for run in saved.runs if run.job_id not in self.account.jobs), None)
        if strange is not None:
            raise StateError(
                f"the state file has runs of job {strange}, which the scenario lacks: add it or remove --state."
            )
        self.account.restore(saved.runs, saved.facts.taken)
        self.journal.entries = saved.journal

    def close(self) -> None:
        """Stops sending webhooks and closes the store."""
        self.webhooks.close()
        if self._store:
            self._store.close()
