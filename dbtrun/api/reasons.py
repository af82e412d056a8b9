"""The reasons of phases and conditions: a closed list, each with what to do about it.

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


NOTHING: Final = "Nothing: it continues by itself."

REASON_DOCS: Final[dict[Reason, ReasonDoc]] = {
    Reason.ACCEPTED: ReasonDoc("The watcher has accepted the object, and its start waits for its turn.", NOTHING),
    Reason.SUSPENDED: ReasonDoc(
        "`spec.suspend` is true, so the next attempt does not start.", "Set `spec.suspend: false` to start it."
    ),
    Reason.WAITING_FOR_SLOT: ReasonDoc(
        "The account has as many live runs as the connection's `max-concurrent-runs` allows.",
        "Nothing: it starts when its turn comes. Raise `spec.priority` to start it before others of its namespace.",
    ),
    Reason.COPIED: ReasonDoc(
        "The object is a copy of another one (restored from a backup, or created from the output of "
        "`kubectl get -o yaml`), so it starts nothing by itself.",
        "To start it, set the annotation that the message names; otherwise delete it.",
    ),
    Reason.RETRY_BACKOFF: ReasonDoc(
        "An attempt did not succeed; the next one starts after `retry.backoffSeconds`.", NOTHING
    ),
    Reason.CLAIMED: ReasonDoc(
        "The attempt is recorded in the status, and the watcher is sending the start to dbt Cloud.", NOTHING
    ),
    Reason.LOOKING_UP: ReasonDoc(
        "It is not known whether dbt Cloud started the run (a lost reply, a restart). The watcher searches the runs of "
        "the job.",
        "Nothing: if there is a run, the watcher follows it. It starts one only when it is certain that there is none.",
    ),
    Reason.RUN_QUEUED: ReasonDoc(
        "dbt Cloud has queued the run.",
        "dbt Cloud runs one run of a job at a time: check whether another run of the job is live.",
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
        "dbt Cloud ended the run at its own timeout.", "Raise the job's timeout or `spec.overrides.timeoutSeconds`."
    ),
    Reason.CANCEL_REQUESTED: ReasonDoc("`spec.cancel` is true.", "Create a new object to run again."),
    Reason.DELETED: ReasonDoc("The object is being deleted, and its run is cancelled first.", NOTHING),
    Reason.QUEUE_DEADLINE_EXCEEDED: ReasonDoc(
        "The run did not begin within `spec.queueDeadlineSeconds`.",
        "Check what the job's queue waits for, or raise the deadline.",
    ),
    Reason.ACTIVE_DEADLINE_EXCEEDED: ReasonDoc(
        "The run took longer than `spec.activeDeadlineSeconds`.", "Make the job faster, or raise the deadline."
    ),
    Reason.INVALID_CONNECTION: ReasonDoc(
        "The connection cannot be used: no such Secret, a wrong type, a missing key, or an account other than "
        "`spec.accountId`.",
        "Correct the Secret that the message names. A waiting object continues by itself; if it has ended, create a "
        "new object.",
    ),
    Reason.JOB_NOT_FOUND: ReasonDoc(
        "dbt Cloud has no such job, has several of that name, or hides it from the token.",
        "Compare `spec.job` with dbt Cloud and the token's permission set; create a new object.",
    ),
    Reason.PROJECT_NOT_ALLOWED: ReasonDoc(
        "The job or the run is in a project that the namespace may not use with the default connection.",
        "Use a connection of the namespace's own (`spec.connectionRef`), or have the project added to the Helm value "
        "`connection.projects`; create a new object.",
    ),
    Reason.FORBIDDEN: ReasonDoc(
        "The token does not have the right to do this in dbt Cloud.",
        "Give the token the permission set Job Runner on the project, or use another token.",
    ),
    Reason.SUBMISSION_REJECTED: ReasonDoc(
        "dbt Cloud refused to start the run; the message quotes it.",
        "Correct what the message names and create a new object.",
    ),
    Reason.SUBMISSION_UNDECIDED: ReasonDoc(
        "The watcher could not find out in time whether dbt Cloud started the run.",
        "Search the job's runs in dbt Cloud for the marker in `status.attempts`. If you find a run, follow it with "
        "`spec.runId`.",
    ),
    Reason.RUN_NOT_FOUND: ReasonDoc(
        "dbt Cloud no longer knows the run, never did, or hides it from the token.",
        "Compare `spec.runId` with dbt Cloud and the token's projects.",
    ),
    Reason.LOST_CONTACT: ReasonDoc(
        "The run's state was unreadable for `spec.lostContactDeadlineSeconds`; it may still be running.",
        "Correct what the condition Reachable names. Then follow the run with a new object and `spec.runId`.",
    ),
    Reason.STATUS_TAMPERED: ReasonDoc(
        "The status contains values that the watcher never writes, so somebody else has changed it.",
        "Allow only the watcher to write `dbtruns/status`, and create a new object.",
    ),
    Reason.ANSWERING: ReasonDoc("dbt Cloud answers.", NOTHING),
    Reason.UNREACHABLE: ReasonDoc(
        "dbt Cloud does not answer: name resolution, network, TLS or timeout.",
        "See the message. The watcher retries with backoff.",
    ),
    Reason.SERVER_ERROR: ReasonDoc(
        "dbt Cloud answers with server errors.", "See the status page of dbt Cloud. The watcher retries with backoff."
    ),
    Reason.RATE_LIMITED: ReasonDoc(
        "The request limit of the account is used up. All requests to the account pause.",
        "Nothing. If it happens often, find out which clients use up the limit, or lower the watcher's "
        "`requestsPerMinute`.",
    ),
    Reason.UNAUTHORIZED: ReasonDoc(
        "dbt Cloud refuses the token.",
        "Replace the token in the Secret; no restart is needed. If the object has ended, create a new one.",
    ),
    Reason.OTHER_ACCOUNT: ReasonDoc(
        "The connection names another dbt Cloud account, or another host, than the one that has the object's runs.",
        "Let the connection name the former account again; for the new account, create a new object. If two watchers "
        "serve the namespace, let only one of them serve it.",
    ),
}
