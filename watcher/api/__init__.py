"""The DbtRun API in Python: the types that the watcher writes and the Airflow trigger reads.

Both images import it, so it needs nothing but msgspec.
"""

from watcher.api.names import (
    API_VERSION,
    CONNECTION_SECRET_TYPE,
    FINALIZER,
    GROUP,
    KIND,
    MARKER_PREFIX,
    PLURAL,
    RESTORED_LABEL,
    START_COPY_ANNOTATION,
    UID_ANNOTATION,
    VERSION,
)
from watcher.api.objects import DbtRun, Metadata, UnreadableObject, parse, to_wire
from watcher.api.phases import FINAL_PHASES, LIVE_PHASES, PHASE_MEANINGS, Phase
from watcher.api.reasons import REASON_DOCS, Reason, ReasonDoc
from watcher.api.spec import (
    ConnectionRef,
    DeletionPolicy,
    Job,
    Overrides,
    PullRequestId,
    Retry,
    RetryStrategy,
    RetryWhen,
    Reuse,
    Spec,
)
from watcher.api.status import (
    Artifact,
    Attempt,
    Condition,
    ConditionStatus,
    ConditionType,
    FailedNode,
    Results,
    Status,
    Step,
)

__all__ = [
    "API_VERSION",
    "CONNECTION_SECRET_TYPE",
    "FINALIZER",
    "FINAL_PHASES",
    "GROUP",
    "KIND",
    "LIVE_PHASES",
    "MARKER_PREFIX",
    "PHASE_MEANINGS",
    "PLURAL",
    "REASON_DOCS",
    "RESTORED_LABEL",
    "START_COPY_ANNOTATION",
    "UID_ANNOTATION",
    "VERSION",
    "Artifact",
    "Attempt",
    "Condition",
    "ConditionStatus",
    "ConditionType",
    "ConnectionRef",
    "DbtRun",
    "DeletionPolicy",
    "FailedNode",
    "Job",
    "Metadata",
    "Overrides",
    "Phase",
    "PullRequestId",
    "Reason",
    "ReasonDoc",
    "Results",
    "Retry",
    "RetryStrategy",
    "RetryWhen",
    "Reuse",
    "Spec",
    "Status",
    "Step",
    "UnreadableObject",
    "parse",
    "to_wire",
]
