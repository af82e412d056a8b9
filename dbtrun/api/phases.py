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
    Phase.PENDING: "Nothing was started yet; the reason says what is waited for.",
    Phase.SUBMITTING: "The start is claimed and may have reached dbt Cloud; its run id is not known yet.",
    Phase.QUEUED: "dbt Cloud has the run and has not begun it.",
    Phase.RUNNING: "dbt Cloud is running it.",
    Phase.CANCELLING: "Somebody or a deadline wants it to stop, and dbt Cloud has not confirmed the end.",
    Phase.SUCCEEDED: "dbt Cloud says it succeeded.",
    Phase.FAILED: "dbt Cloud says it failed.",
    Phase.CANCELLED: "It was cancelled, here or in dbt Cloud.",
    Phase.TIMED_OUT: "A deadline passed, ours or dbt Cloud's, and the run is over.",
    Phase.ERROR: "The watcher could not start it or could not follow it; dbt Cloud did not say that it failed.",
}
