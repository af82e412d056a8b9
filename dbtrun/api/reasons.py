"""Why a run, or a condition of it, is as it is: a closed list, each with what to do about it.

People match on these in alerts and DAGs, so a reason is never renamed and never carries data (the message does).
"""

from enum import StrEnum
from typing import Final, NamedTuple


class Reason(StrEnum):
    """A machine-readable cause, in CamelCase as Kubernetes conditions want it."""

    # on the way
    ACCEPTED = "Accepted"
    SUSPENDED = "Suspended"
    WAITING_FOR_SLOT = "WaitingForSlot"
    COPIED = "Copied"
    RETRY_BACKOFF = "RetryBackoff"
    CLAIMED = "Claimed"
    LOOKING_UP = "LookingUp"
    RUN_QUEUED = "RunQueued"
    RUN_STARTED = "RunStarted"
    # ends that dbt Cloud reported
    RUN_SUCCEEDED = "RunSucceeded"
    RUN_FAILED = "RunFailed"
    CANCELLED_IN_DBT_CLOUD = "CancelledInDbtCloud"
    TIMED_OUT_IN_DBT_CLOUD = "TimedOutInDbtCloud"
    # ends that were asked for here
    CANCEL_REQUESTED = "CancelRequested"
    DELETED = "Deleted"
    QUEUE_DEADLINE_EXCEEDED = "QueueDeadlineExceeded"
    ACTIVE_DEADLINE_EXCEEDED = "ActiveDeadlineExceeded"
    # the watcher could not start or follow it
    INVALID_CONNECTION = "InvalidConnection"
    JOB_NOT_FOUND = "JobNotFound"
    PROJECT_NOT_ALLOWED = "ProjectNotAllowed"
    FORBIDDEN = "Forbidden"
    SUBMISSION_REJECTED = "SubmissionRejected"
    SUBMISSION_UNDECIDED = "SubmissionUndecided"
    RUN_NOT_FOUND = "RunNotFound"
    LOST_CONTACT = "LostContact"
    STATUS_TAMPERED = "StatusTampered"
    # whether dbt Cloud answers
    ANSWERING = "Answering"
    UNREACHABLE = "Unreachable"
    SERVER_ERROR = "ServerError"
    RATE_LIMITED = "RateLimited"
    UNAUTHORIZED = "Unauthorized"
    OTHER_ACCOUNT = "OtherAccount"


class ReasonDoc(NamedTuple):
    """What a reason means and what a person can do about it."""

    meaning: str
    remedy: str


NOTHING: Final = "Nothing: it goes on by itself."

REASON_DOCS: Final[dict[Reason, ReasonDoc]] = {
    Reason.ACCEPTED: ReasonDoc("The object was seen and waits for its turn.", NOTHING),
    Reason.SUSPENDED: ReasonDoc("`spec.suspend` holds the start back.", "Set `spec.suspend: false` to start it."),
    Reason.WAITING_FOR_SLOT: ReasonDoc(
        "The account has as many live runs as the connection's `max-concurrent-runs` allows.",
        "Nothing: it starts when its turn comes. Raise `spec.priority` to start it before others of its namespace.",
    ),
    Reason.COPIED: ReasonDoc(
        "The object is a copy of one that was taken on before (restored from a backup, or made from what "
        "`kubectl get -o yaml` printed), so it starts nothing by itself.",
        "To start it, set the annotation that the message names; otherwise delete it.",
    ),
    Reason.RETRY_BACKOFF: ReasonDoc(
        "An attempt ended badly; the next one starts after `retry.backoffSeconds`.", NOTHING
    ),
    Reason.CLAIMED: ReasonDoc("The attempt is recorded and its start request is on the way.", NOTHING),
    Reason.LOOKING_UP: ReasonDoc(
        "Whether dbt Cloud started the run is not known (a lost answer, a restart); the job's runs are searched.",
        "Nothing: the run is adopted when it is found, and started only when it is certain that it was not.",
    ),
    Reason.RUN_QUEUED: ReasonDoc(
        "dbt Cloud has queued the run.", "Runs of one job are serial: see whether another holds it up."
    ),
    Reason.RUN_STARTED: ReasonDoc("dbt Cloud is running it.", NOTHING),
    Reason.RUN_SUCCEEDED: ReasonDoc("dbt Cloud reports success.", "Nothing."),
    Reason.RUN_FAILED: ReasonDoc(
        "dbt Cloud reports an error.", "Read `status.results` and `status.failedStep`, and open `status.url`."
    ),
    Reason.CANCELLED_IN_DBT_CLOUD: ReasonDoc(
        "Somebody cancelled the run in dbt Cloud.",
        "Ask who did (the audit log of dbt Cloud); create a new object to run again.",
    ),
    Reason.TIMED_OUT_IN_DBT_CLOUD: ReasonDoc(
        "dbt Cloud ended the run at its own time-out.", "Raise the job's time-out or `spec.overrides.timeoutSeconds`."
    ),
    Reason.CANCEL_REQUESTED: ReasonDoc("`spec.cancel` is true.", "Create a new object to run again."),
    Reason.DELETED: ReasonDoc("The object is being deleted and its run is cancelled first.", NOTHING),
    Reason.QUEUE_DEADLINE_EXCEEDED: ReasonDoc(
        "It did not begin within `spec.queueDeadlineSeconds`.",
        "See what holds the job's queue up, or raise the deadline.",
    ),
    Reason.ACTIVE_DEADLINE_EXCEEDED: ReasonDoc(
        "It ran longer than `spec.activeDeadlineSeconds`.", "Make the job faster, or raise the deadline."
    ),
    Reason.INVALID_CONNECTION: ReasonDoc(
        "The connection cannot be used: no such Secret, a wrong type, a missing key, or an account other than "
        "`spec.accountId`.",
        "Mend the Secret that the message names. A waiting object goes on by itself; for one that has ended, create a "
        "new object.",
    ),
    Reason.JOB_NOT_FOUND: ReasonDoc(
        "dbt Cloud knows no such job, several of that name, or hides it from the token.",
        "Compare `spec.job` with dbt Cloud and the token's permission set; create a new object.",
    ),
    Reason.PROJECT_NOT_ALLOWED: ReasonDoc(
        "The job or the run is in a project that the namespace may not use with the default connection.",
        "Use a connection of the namespace's own (`spec.connectionRef`), or have the project added to the Helm value "
        "`connection.projects`; create a new object.",
    ),
    Reason.FORBIDDEN: ReasonDoc(
        "The token may not do this in dbt Cloud.",
        "Give the token the Job Runner permission set on the project, or use another.",
    ),
    Reason.SUBMISSION_REJECTED: ReasonDoc(
        "dbt Cloud refused to start the run; the message has its words.",
        "Correct the field it names and create a new object.",
    ),
    Reason.SUBMISSION_UNDECIDED: ReasonDoc(
        "Whether dbt Cloud started the run could not be found out in time.",
        "Search the job's runs for the marker in `status.attempts`; adopt what you find by `spec.runId`.",
    ),
    Reason.RUN_NOT_FOUND: ReasonDoc(
        "dbt Cloud no longer knows the run, never did, or hides it from the token.",
        "Compare `spec.runId` with dbt Cloud and the token's projects.",
    ),
    Reason.LOST_CONTACT: ReasonDoc(
        "The run's state was unreadable for `spec.lostContactDeadlineSeconds`; it may still be running.",
        "Mend what the Reachable condition names; then follow the run with a new object and `spec.runId`.",
    ),
    Reason.STATUS_TAMPERED: ReasonDoc(
        "The status says what the watcher never writes: somebody else wrote it.",
        "Take away the write access to `dbtruns/status` that is not the watcher's; create a new object.",
    ),
    Reason.ANSWERING: ReasonDoc("dbt Cloud answers.", NOTHING),
    Reason.UNREACHABLE: ReasonDoc(
        "No answer from dbt Cloud: name, network, TLS or time-out.", "See the message; it is tried again with backoff."
    ),
    Reason.SERVER_ERROR: ReasonDoc(
        "dbt Cloud answers with server errors.", "See its status page; it is tried again with backoff."
    ),
    Reason.RATE_LIMITED: ReasonDoc(
        "The account's request limit is used up; everything on it pauses.",
        "Nothing, or find what else spends the limit, or lower the watcher's budget.",
    ),
    Reason.UNAUTHORIZED: ReasonDoc(
        "dbt Cloud refuses the token.",
        "Renew the token in the Secret; no restart is needed. For an object that has ended, create a new one.",
    ),
    Reason.OTHER_ACCOUNT: ReasonDoc(
        "The object's runs are in another dbt Cloud account, or on another host, than its connection now names.",
        "Let the connection name the former account again; for the new account, create a new object. If two watchers "
        "serve the namespace, take it from one of them.",
    ),
}
