"""What is done although the API server refuses the status: an unwanted run is cancelled, a deleted object released.

An admission webhook that is down, a right that was removed or a namespace that is being deleted must not keep a run
alive.
"""

from __future__ import annotations

from dbtrun.api import Reason
from watcher.lifecycle.case import Case
from watcher.lifecycle.decisions import Cancel, Decision, Event, FindOwner, RemoveFinalizer, Write
from watcher.lifecycle.facts import RunFacts


def stop_wish(case: Case) -> Reason | None:
    """Why the object's owner wants its run ended, apart from deadlines."""
    if case.run.deleting:
        return Reason.DELETED if case.run.cancels_on_deletion else None
    return Reason.CANCEL_REQUESTED if case.spec.cancel else None


def cancel_due(case: Case, run_id: int) -> Decision | None:
    """The request to cancel the run, unless one was sent recently or dbt Cloud must not be asked now."""
    if case.owner_unknown(run_id):
        return None if case.pausing else case.reconnect() or FindOwner(run_id)
    if case.foreign(run_id):
        return None
    last = case.known.cancel
    # Repeated after a while: that dbt Cloud has taken a cancel does not prove that the run ends.
    if last is not None and last.run_id == run_id and last.at + case.policy.cancel_repeat > case.now.mono:
        return None
    return None if case.pausing else case.reconnect() or Cancel(run_id)


def stop_unwritten(case: Case, run: RunFacts) -> Decision | None:
    """The end of a run that is unwanted before the status could be made to name it."""
    if not case.known.unwritten or stop_wish(case) is None:
        return None
    if not run.state.over and (due := cancel_due(case, run.run_id)) is not None:
        return due
    last = case.known.cancel
    asked = last is not None and last.run_id == run.run_id
    if case.run.deleting and case.held and (run.state.over or asked or case.foreign(run.run_id)):
        return _let_go(f"dbt Cloud was {'' if asked else 'not '}asked to cancel run {run.run_id}.")
    return None


def let_go(case: Case, decision: Decision) -> Decision:
    """The release of a deleted object whose end cannot be written, instead of another try to write it."""
    if not (case.known.unwritten and case.run.deleting and isinstance(decision, Write)):
        return decision
    return _let_go(decision.status.message) if decision.status.final else decision


def _let_go(told: str) -> RemoveFinalizer:
    return RemoveFinalizer(Event("Warning", "EndNotWritten", f"The status could not be written. {told}"))
