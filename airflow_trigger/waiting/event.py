"""From what was seen of a DbtRun to the payload of a TriggerEvent. Pure.

The words are those that users of Airflow's dbt Cloud provider match on. They are true here: `error` from dbt Cloud and
`error` because nobody could look are told apart by the reason and the sentence.
"""

from __future__ import annotations

from typing import Final, Literal, TypedDict

from airflow_trigger.shared.objects import Run
from dbtrun.api import Phase, Reason
from dbtrun.api.status import FAILED_NODE
from dbtrun.text import cut

MAX_MESSAGE: Final = 2_000
"""Characters: the payload is stored in Airflow's database with the trigger."""

WAIT_TIMEOUT: Final = "WaitTimeout"
"""The trigger's own end time passed; the run may go on."""
NOT_FOUND: Final = "NotFound"
"""There is no DbtRun of that name."""
NO_ACCESS: Final = "NoAccess"
"""Kubernetes did not let the trigger look, for longer than it was willing to wait."""
NOT_ACCEPTED: Final = "NotAccepted"
"""The DbtRun that should follow the run could not be created, or its name is taken."""
INVALID_ARGUMENT: Final = "InvalidArgument"
"""An argument of the trigger cannot be used."""
BROKEN: Final = "TriggerBroke"
"""The trigger met something that it does not foresee; the triggerer's log has the traceback."""
STARTED: Final = "Started"
"""The dbt Cloud run is known: for waits that go no further."""

EventStatus = Literal["success", "error", "cancelled", "timeout"]


class Payload(TypedDict):
    """What `execute_complete` gets: JSON primitives only."""

    status: EventStatus
    run_id: int | None
    message: str
    job_run_url: str | None
    reason: str
    namespace: str
    name: str


STATUSES: Final[dict[str, EventStatus]] = {
    Phase.SUCCEEDED: "success",
    Phase.FAILED: "error",
    Phase.CANCELLED: "cancelled",
    # Observed: dbt Cloud reports a run that took too long as cancelled; the watcher tells the two apart.
    Phase.TIMED_OUT: "timeout",
    Phase.ERROR: "error",
}


class Subject:
    """Who an event is about: a DbtRun by name, and the dbt Cloud run as far as it is known."""

    def __init__(self, namespace: str, name: str, run_id: int | None = None, url: str | None = None) -> None:
        self.namespace = namespace
        self.name = name
        self.run_id = run_id
        self.url = url

    @property
    def title(self) -> str:
        """How a sentence that begins with it names it."""
        return f"{self.within[0].upper()}{self.within[1:]}"

    @property
    def within(self) -> str:
        """The same later in a sentence."""
        return f"DbtRun {self.namespace}/{self.name}" if self.run_id is None else f"job run {self.run_id}"

    def of(self, run: Run | None) -> Subject:
        """The same with what `run` adds."""
        if run is None:
            return self
        return Subject(self.namespace, self.name, run.run_id or self.run_id, run.status.link or self.url)

    def event(self, status: EventStatus, reason: str, *sentences: str) -> Payload:
        """The payload."""
        message = " ".join(filter(None, sentences))
        return Payload(
            status=status,
            run_id=self.run_id,
            message=cut(message, MAX_MESSAGE),
            job_run_url=self.url,
            reason=reason,
            namespace=self.namespace,
            name=self.name,
        )


def ended(subject: Subject, run: Run) -> Payload:
    """The event of a run in a final phase."""
    about, truth = subject.of(run), run.status
    sentences: tuple[str, ...]
    match truth.phase:
        case Phase.SUCCEEDED:
            sentences = (f"{about.title} has completed successfully.",)
        case Phase.FAILED:
            count = sum(truth.results.counts.get(status, 0) for status in FAILED_NODE)
            nodes = f" ({count} failed {'node' if count == 1 else 'nodes'})" if count else ""
            sentences = (f"{about.title} has failed{nodes}.", truth.message)
        case Phase.CANCELLED:
            sentences = (f"{about.title} has been cancelled.", truth.message)
        case Phase.TIMED_OUT:
            begin = truth.started_at or truth.start_time
            end = truth.finished_at or truth.completion_time
            lasted = f" after {max(0, round((end - begin).total_seconds()))} seconds" if begin and end else ""
            sentences = (f"Timeout: {about.within} was ended{lasted}.", truth.message)
        case _:
            sentences = (
                # Not "job run … has failed", which is what users of the provider match on: it is not known that it did.
                f"DbtRun {about.namespace}/{about.name} ended with {truth.reason or Phase.ERROR}:",
                _stop(truth.message),
                "No dbt Cloud run is known to have failed."
                if about.run_id is None
                else f"dbt Cloud did not report that run {about.run_id} failed.",
            )
    return about.event(STATUSES[truth.phase], truth.reason, *sentences)


def _stop(text: str) -> str:
    return text if not text or text.endswith((".", "!", "?", "…")) else f"{text}."


def started(subject: Subject, run: Run) -> Payload:
    """The event of a run that is known now, for a wait that goes no further."""
    about = subject.of(run)
    return about.event("success", STARTED, f"{about.title} was started.")


def invalid(subject: Subject, message: str) -> Payload:
    """The event of a trigger whose arguments cannot be used."""
    return subject.event("error", INVALID_ARGUMENT, f"The trigger cannot wait: {_stop(message)}")


def broken(subject: Subject) -> Payload:
    """The event of a trigger that met something which it does not foresee."""
    sentence = "The trigger failed; see the triggerer's log. The outcome of the run is not known."
    return subject.event("error", BROKEN, sentence)


def waited_too_long(subject: Subject, last: Run | None, seconds: float, trouble: str = "") -> Payload:
    """The event of a wait that passed its end time, after `seconds`. `trouble` is what it met last."""
    about = subject.of(last)
    why = f"The last problem: {_stop(trouble)}" if trouble else ""
    return about.event("timeout", WAIT_TIMEOUT, too_long(about.within, last, seconds), why)


def too_long(who: str, last: Run | None, seconds: float) -> str:
    """The sentence of such a wait."""
    seen = ""
    if last is not None:
        phase, reason, message = last.status.phase or Phase.PENDING, last.status.reason, last.status.message
        # Also why it has not begun: a connection that cannot be used, a queue.
        why = f", {reason}: {message.rstrip('.')}" if phase == Phase.PENDING and reason else ""
        seen = f" (last seen: {phase}{why})"
    return (
        f"Timeout: {who} has not reached a terminal status after {round(seconds)} seconds{seen}; it was not cancelled."
    )


def deleted(subject: Subject, last: Run | None) -> Payload:
    """The event of a DbtRun that went away before it ended, or never was there."""
    about, title = subject.of(last), f"DbtRun {subject.namespace}/{subject.name}"
    if last is None:
        return about.event("error", NOT_FOUND, f"{title} does not exist.")
    if last.run_id is None:
        left = "No dbt Cloud run of it was known."
    elif last.spec.cancels_on_deletion:
        left = f"Because of its deletion policy Cancel, dbt Cloud run {last.run_id} is cancelled."
    else:
        left = f"Because of its deletion policy Orphan, dbt Cloud run {last.run_id} may still be running."
    return about.event("error", Reason.DELETED, f"{title} was deleted before it ended.", left)


def no_access(subject: Subject, message: str, seconds: float) -> Payload:
    """The event of a wait that was refused for `seconds` on end."""
    return subject.event(
        "error",
        NO_ACCESS,
        f"DbtRun {subject.namespace}/{subject.name} could not be watched for {round(seconds)} seconds.",
        _stop(message),
        "The outcome of the run is not known.",
    )


def not_accepted(subject: Subject, message: str) -> Payload:
    """The event of a run that cannot be followed, because its DbtRun cannot be made."""
    return subject.event(
        "error", NOT_ACCEPTED, f"DbtRun {subject.namespace}/{subject.name} cannot follow the run: {_stop(message)}"
    )
