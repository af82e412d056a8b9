"""The one word that says where a run stands.

Flat and valid as a label value: Argo, `kubectl wait --for=jsonpath` and printer columns can test nothing richer.
"""

from enum import StrEnum
from typing import Final


class Phase(StrEnum):
    """Where a DbtRun, or one attempt of it, stands."""

    PENDING = "Pending"
    SUBMITTING = "Submitting"
    QUEUED = "Queued"
    RUNNING = "Running"
    CANCELLING = "Cancelling"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"
    TIMED_OUT = "TimedOut"
    ERROR = "Error"

    @property
    def final(self) -> bool:
        """Whether nothing can follow: a final phase never changes."""
        return self in FINAL_PHASES

    @property
    def live(self) -> bool:
        """Whether a dbt Cloud run is known and not known to be over."""
        return self in LIVE_PHASES


FINAL_PHASES: Final = frozenset({Phase.SUCCEEDED, Phase.FAILED, Phase.CANCELLED, Phase.TIMED_OUT, Phase.ERROR})
LIVE_PHASES: Final = frozenset({Phase.QUEUED, Phase.RUNNING, Phase.CANCELLING})

PHASE_MEANINGS: Final[dict[Phase, str]] = {
    Phase.PENDING: "Nothing is started yet. The reason says what the object waits for.",
    Phase.SUBMITTING: "The start is claimed and may have reached dbt Cloud. The id of the run is not known yet.",
    Phase.QUEUED: "The run is in the queue of dbt Cloud.",
    Phase.RUNNING: "The run has begun in dbt Cloud.",
    Phase.CANCELLING: "The run should stop, for a person or a deadline, and dbt Cloud has not confirmed its end yet.",
    Phase.SUCCEEDED: "dbt Cloud reports that the run succeeded.",
    Phase.FAILED: "dbt Cloud reports that the run failed.",
    Phase.CANCELLED: "The run was cancelled, by the watcher or in dbt Cloud.",
    Phase.TIMED_OUT: "A deadline of the spec or dbt Cloud's own timeout has passed, and the run has ended.",
    Phase.ERROR: "The watcher could not start the run or could not follow it. dbt Cloud did not report a failure.",
}
