"""One object with everything known of it: what every rule of the core looks at."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from msgspec.structs import replace

from dbtrun.api import (
    FINALIZER,
    PHASE_MEANINGS,
    Attempt,
    ConditionStatus,
    ConditionType,
    DbtRun,
    Phase,
    Reason,
    Spec,
    Status,
)
from dbtrun.api.status import MAX_MESSAGE
from dbtrun.text import clean
from dbtrun.values import Instant
from watcher.lifecycle.decisions import Connect, Decision, Event, RemoveFinalizer, Wait, Write
from watcher.lifecycle.facts import Observation, RunFacts, Trouble
from watcher.lifecycle.known import DENIED_INTERVAL, Known, wanted_run
from watcher.lifecycle.outcome import Outcome
from watcher.lifecycle.policy import Policy
from watcher.lifecycle.statuses import bounded, seconds, stamped, sticky, with_attempt

TOLD_AT_ONCE: Final = frozenset({Reason.INVALID_CONNECTION, Reason.UNAUTHORIZED, Reason.OTHER_ACCOUNT})
"""Troubles that do not pass by themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What a decision depends on, and nothing else."""

    run: DbtRun
    known: Known
    now: Instant
    policy: Policy

    @property
    def spec(self) -> Spec:
        """What the owner of the object wants."""
        return self.run.spec

    @property
    def status(self) -> Status:
        """What the object says of itself."""
        return self.run.status

    @property
    def attempt(self) -> Attempt | None:
        """The present attempt, if there is one."""
        return self.run.status.attempt

    @property
    def phase(self) -> Phase:
        """The phase; an object without a status is pending."""
        return self.run.status.phase or Phase.PENDING

    @property
    def held(self) -> bool:
        """Whether our finalizer is on the object."""
        return FINALIZER in self.run.metadata.finalizers

    @property
    def facts(self) -> RunFacts | None:
        """What dbt Cloud last said of the run that the object is about."""
        observation = self.known.observation
        facts = observation.run if observation else None
        return facts if facts and facts.run_id == wanted_run(self.run) else None

    def swept(self, attempt: Attempt) -> bool:
        """Whether no twin of the attempt's run is to be looked for: it was done, or is another object's to do."""
        theirs = not self.run.may_start or self.run.is_foreign(attempt)
        return theirs or attempt.number in self.known.swept

    def mono(self, moment: datetime) -> float:
        """The wall-clock moment on the monotonic clock."""
        return self.now.mono + (moment - self.now.wall).total_seconds()

    @property
    def trouble_told(self) -> Trouble | None:
        """The trouble, once it has lasted long enough to be worth a write to every object that it affects."""
        trouble = self.known.trouble
        if trouble is None:
            return None
        lasting = self.now.mono - trouble.since.mono >= self.policy.trouble_grace
        return trouble if lasting or trouble.reason in TOLD_AT_ONCE else None

    @property
    def followed_by_others(self) -> bool:
        """Whether another watcher answers for the object, whose connection names the account of its runs.

        We have said that ours does not, and the status says now that dbt Cloud answers.
        """
        since, told = self.known.displaced_at, self.status.condition(ConditionType.REACHABLE)
        if since is None or not self.pausing or self.now.mono >= since + self.policy.resync:
            return False
        return told is not None and told.status is ConditionStatus.TRUE

    @property
    def out_of_contact_until(self) -> datetime | None:
        """When to give up on a dbt Cloud that does not answer; None while it answers."""
        trouble = self.known.trouble
        if trouble is None:
            return None
        told = self.status.condition(ConditionType.REACHABLE)
        # From the status, if it is there already: a restart of the watcher must not begin the deadline again.
        since = told.last_transition_time if told and told.status is ConditionStatus.FALSE else trouble.since.wall
        return since + timedelta(seconds=self.spec.lost_contact_deadline_seconds)

    @property
    def pausing(self) -> bool:
        """Whether a fault forbids to ask dbt Cloud now."""
        trouble = self.known.trouble
        return trouble is not None and trouble.retry_at is not None and trouble.retry_at > self.now.mono

    def owner_unknown(self, run_id: int) -> bool:
        """Whether the run was taken over and nobody has looked whose it is."""
        attempt, owner = self.attempt, self.known.owner
        adopted = attempt.adopted if attempt is not None else self.spec.adopts
        return adopted and (owner is None or owner.run_id != run_id)

    def foreign(self, run_id: int) -> bool:
        """Whether an object of another namespace has started the run."""
        owner = self.known.owner
        return owner is not None and owner.run_id == run_id and owner.foreign

    # ── deciding ──

    def settled(self, **changes: Any) -> Status:
        """The status with these changes, its generation and its conditions."""
        if self.status.phase is None:
            changes = {"phase": Phase.PENDING, "reason": Reason.ACCEPTED} | changes
        status = replace(self.status, **changes)
        job = self.spec.job
        job_name, job_id = (None, status.job_id) if job is None else (job.name, job.id)
        meaning = PHASE_MEANINGS[status.phase or Phase.PENDING]
        return bounded(
            stamped(
                replace(
                    status,
                    # The job for people.
                    job=str(job_id) if job_name is None and job_id is not None else job_name,
                    # The API server refuses a longer one, and an end that is refused is never reported.
                    message=clean(status.message, MAX_MESSAGE) or meaning,
                ),
                self.run.metadata.generation,
                self.now.wall,
                self.trouble_told,
                self.known.answered and self.known.trouble is None,
            )
        )

    def write(self, event: Event | None = None, **changes: Any) -> Write | None:
        """A write of the status with these changes; None if the status says so already."""
        status = self.settled(**changes)
        return None if status == self.status and not self.run.unread else self._write(status, event)

    def change(self, event: Event | None = None, **changes: Any) -> Write:
        """A write of the status with these changes, which differ from what it says now."""
        return self._write(self.settled(**changes), event)

    def _write(self, status: Status, event: Event | None) -> Write:
        trouble, observation = self.trouble_told, self.known.observation
        if event is None and trouble is not None:
            # With the first write that reports the trouble: dbt Cloud does not answer, or a person must act. An outage
            # has one Event, however its faults vary.
            words, new = clean(trouble.message, MAX_MESSAGE), True
            told = self.status.condition(ConditionType.REACHABLE)
            if told is not None and told.status is ConditionStatus.FALSE:
                same = told.reason is trouble.reason and (sticky(trouble) or told.message == words)
                new = not same and trouble.reason in TOLD_AT_ONCE
            event = Event("Warning", trouble.reason.value, words) if new else None
        if observation is not None and status.phase is not Phase.PENDING:
            status = replace(status, last_observed_at=seconds(observation.at.wall))
        return Write(status, event)

    def rest(self, *until: float | None, why: str, **changes: Any) -> Decision:
        """Reports the state, then waits for the earliest of the moments, or at most for the resync."""
        trouble, gives_up = self.known.trouble, self.out_of_contact_until
        deleted = self.run.metadata.deletion_timestamp
        moments = [
            *until,
            trouble.since.mono + self.policy.trouble_grace if trouble and self.trouble_told is None else None,
            self.mono(gives_up) if gives_up else None,
            self._unusable_until,
            self.mono(deleted) + self.policy.deletion_grace if deleted else None,
        ]
        # A moment that has passed without a rule acting on it has nothing to say: waiting for it would spin.
        ahead = (moment for moment in moments if moment is not None and moment > self.now.mono)
        return self.write(**changes) or Wait(min((self.now.mono + self.policy.resync, *ahead)), why)

    def finish(self, outcome: Outcome, **changes: Any) -> Decision:
        """The end: it is written once, with an Event, and never changes."""
        attempt = changes.pop("attempt", self.attempt)
        outcome = outcome._replace(message=clean(outcome.message, MAX_MESSAGE))
        if attempt is not None:
            ended = replace(
                attempt, phase=outcome.phase, reason=outcome.reason, message=outcome.message, not_before=None
            )
            changes["attempts"] = with_attempt(self.status, ended)
        wished = outcome.phase in (Phase.SUCCEEDED, Phase.CANCELLED)
        return self.change(
            Event("Normal" if wished else "Warning", outcome.phase.value, outcome.message),
            phase=outcome.phase,
            reason=outcome.reason,
            message=outcome.message,
            completion_time=seconds(self.now.wall),
            **{**changes, "estimated_completion_time": None},
        )

    def contact(self) -> Decision | None:
        """What must happen before dbt Cloud can be asked about this object; None: ask."""
        trouble = self.known.trouble
        # Nothing was asked while the object was suspended or backing off: an old trouble is no reason to give up.
        stale = trouble is not None and trouble.retry_at is not None and not self.pausing
        return (None if stale else self.lost_contact() or self.never_connected()) or self.reconnect()

    @property
    def _unusable_until(self) -> float | None:
        """When an object of which nothing was started stops waiting for a person to mend its connection."""
        since = self.known.unusable_since
        nothing = self.attempt is None and self.known.submitted == 0
        return since + self.spec.connection_deadline_seconds if since is not None and nothing else None

    def never_connected(self) -> Decision | None:
        """The end of an object of which nothing was started, as its connection stayed unusable for too long."""
        until, trouble = self._unusable_until, self.known.trouble
        if until is None or trouble is None or until > self.now.mono:
            return None
        limit = self.spec.connection_deadline_seconds
        message = f"Nothing was started, because the connection could not be used for {limit} s: {trouble.message}"
        return self.finish(Outcome(Phase.ERROR, trouble.reason, message))

    def reconnect(self) -> Decision | None:
        """The pause after a fault, then the connection; None: ask."""
        if self.pausing:
            retry_at = self.known.trouble.retry_at if self.known.trouble else None
            changes = self._held_up_by(self.trouble_told) if self.phase is Phase.PENDING else {}
            return self.rest(retry_at, why="dbt Cloud cannot be asked", **changes)
        return Connect() if self.known.account_id is None else None

    def rest_pending(self, why: str, reason: Reason, message: str) -> Decision:
        """Reports what the object waits for before it has a run.

        While dbt Cloud does not answer, it waits for that, also during a try: else each try would be two writes.
        """
        told = {"phase": Phase.PENDING, "reason": reason, "message": message}
        return self.rest(why=why, **(self._held_up_by(self.trouble_told) or told))

    def _held_up_by(self, trouble: Trouble | None) -> dict[str, Any]:
        if trouble is None:
            return {}
        same = self.status.phase is Phase.PENDING and self.status.reason is trouble.reason and sticky(trouble)
        message = self.status.message if same else trouble.message
        return {"phase": Phase.PENDING, "reason": trouble.reason, "message": message}

    def lost_contact(self) -> Decision | None:
        """The end of an object whose run could not be read for too long."""
        until = self.out_of_contact_until
        trouble = self.known.trouble
        if until is None or trouble is None or until > self.now.wall:
            return None
        reason = Reason.INVALID_CONNECTION if trouble.reason is Reason.INVALID_CONNECTION else Reason.LOST_CONTACT
        limit = self.spec.lost_contact_deadline_seconds
        message = f"No usable answer from dbt Cloud for {limit} s (spec.lostContactDeadlineSeconds): {trouble.message}"
        if self.status.run_id is not None:
            message = f"Run {self.status.run_id} may still be running. {message}"
        return self.finish(Outcome(Phase.ERROR, reason, message))

    def denied_until(self, observation: Observation, grace: float) -> float | None:
        """When to look again at a denial of the run; None: it was repeated for `grace` seconds, so it is believed."""
        since = self.known.missing_since
        first = observation.at.mono if since is None else since
        if observation.at.mono - first >= grace:
            return None
        # Not before the next poll, which alone can bring another answer.
        return max(first + grace, self.now.mono + DENIED_INTERVAL)

    def deletion_overdue(self, told: str) -> Decision | None:
        """The release of an object that somebody deleted and whose run did not end in time."""
        deleted = self.run.metadata.deletion_timestamp
        if deleted is None or self.now.wall < deleted + timedelta(seconds=self.policy.deletion_grace):
            return None
        return RemoveFinalizer(Event("Warning", "DeletionGaveUp", told))
