"""What holds of every object whatever was done to it, and of the watcher. Pure: values in, complaints out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final

from dbtrun.api import FINAL_PHASES, FINALIZER, MARKER_PREFIX, Reason
from tests.abuse.lives import Complaint, Life

Body = Mapping[str, Any]

PER_ATTEMPT: Final = 16
"""Decisions, and versions of the object, that one attempt may cost."""
PER_WRITE: Final = 8
"""Decisions, versions and reconciles that each write of somebody else may cost."""
EXPECTED_WARNINGS: Final = (
    r"An Event was (dropped|not accepted)",
    r"ApiTrouble: ",
    r"The reconcile of an object has not returned",
    r"DbtRuns in the namespace \S+ cannot be listed: Timeout: Too large resource version",
    r"A connection cannot be used: There is no Secret",
)
"""What the watcher may warn of on a busy machine, and of Secrets that do not exist; anything else is a defect."""


def untold(body: Body, live: Collection[int]) -> str | None:
    """What is missing in an object's status; None: it tells its end, or what it waits for.

    Args:
        live: dbt Cloud runs that do not end by themselves.
    """
    status, metadata = body.get("status", {}), body["metadata"]
    if metadata.get("deletionTimestamp") and FINALIZER not in metadata.get("finalizers", []):
        return None
    if not status.get("phase") or not status.get("message"):
        return "it tells nothing"
    generations = {status.get("observedGeneration"), *(c["observedGeneration"] for c in status.get("conditions", []))}
    if generations != {metadata["generation"]}:
        return "it tells of another generation"
    if status["phase"] in FINAL_PHASES:
        return None if status.get("completionTime") else "its end has no time"
    return None if _waits(body["spec"], status, live) else "it neither ends nor tells what it waits for"


def _waits(spec: Body, status: Body, live: Collection[int]) -> bool:
    match status["phase"], status.get("reason"):
        case "Pending", Reason.SUSPENDED:
            return bool(spec["suspend"])
        case "Pending", Reason.RETRY_BACKOFF:
            return True
        case "Pending", Reason.INVALID_CONNECTION:
            return "connectionRef" in spec
        case "Pending", (Reason.OTHER_ACCOUNT | Reason.COPIED):
            return True  # an account, or a marker of another object, was forged
        case "Submitting", Reason.LOOKING_UP:
            return _unreachable(status)
        case (("Queued" | "Running"), _):
            return status.get("runId") in live or _unreachable(status)
        case ("Cancelling", _):
            return _unreachable(status)
    return False


def _unreachable(status: Body) -> bool:
    """Whether the status says since when nothing is known: a phase was forged whose connection there never was."""
    return any(c["type"] == "Reachable" and c["status"] == "False" for c in status.get("conditions", []))


def in_another_account(body: Body) -> bool:
    """Whether the run is in an account that the connection does not reach: one was forged.

    Its deletion waits for the connection, and gives up after `Policy.deletion_grace`.
    """
    conditions = body.get("status", {}).get("conditions", [])
    return any((c["type"], c["reason"]) == ("Reachable", Reason.OTHER_ACCOUNT) for c in conditions)


TRUE_ENDS: Final = {"Succeeded": 10, "Failed": 20}
"""dbt Cloud's status of a run, by the phase that tells it."""


def untrue(lives: Iterable[Life], runs: Mapping[int, Body]) -> Iterator[Complaint]:
    """What untouched statuses say against dbt Cloud."""
    for life in lives:
        status = (life.object or {}).get("status", {})
        phase, run = status.get("phase"), runs.get(status.get("runId"))
        if not life.forged and phase in TRUE_ENDS and (run is None or run["status"] != TRUE_ENDS[phase]):
            yield Complaint("truth", life.name, f"it says {phase}, dbt Cloud says {run and run['status']}")


def wrong_starts(lives: Iterable[Life], runs: Iterable[Body]) -> Iterator[Complaint]:
    """Runs that were started twice, whatever was forged, or for nobody."""
    known = {life.uid: life for life in lives if life.uid}
    started = Counter(run["cause"].split(" ")[0] for run in runs if run["cause"].startswith(MARKER_PREFIX))
    for mark, times in started.items():
        uid, _, number = mark.removeprefix(MARKER_PREFIX).partition("/")
        life = known.get(uid)
        if life is None:
            yield Complaint("starts", uid, "a run was started for an object that never was")
        elif times > 1:
            yield Complaint("starts", life.name, f"attempt {number} was started {times} times")
        elif not life.forged and not 1 <= int(number) <= life.limit + 1:
            yield Complaint("starts", life.name, f"attempt {number} was started; retry.limit is {life.limit}")


def left_alive(lives: Iterable[Life], runs: Iterable[Body]) -> Iterator[Complaint]:
    """Runs that live on although their object was deleted, and nobody meddled or wanted it so."""
    known = {life.uid: life for life in lives if life.uid}
    for run in runs:
        life = known.get(run["cause"].removeprefix(MARKER_PREFIX).partition("/")[0])
        if run["status"] < 10 and life and not (life.forged or life.stripped or life.orphaned):
            yield Complaint("ends", life.name, f"run {run['id']} lives on although its object was deleted")


def alarming(lines: Iterable[Body]) -> Iterator[Complaint]:
    """What the watcher should not have to say."""
    for line in lines:
        expected = any(re.match(words, line["message"]) for words in EXPECTED_WARNINGS)
        if line["level"] not in ("DEBUG", "INFO") and not expected:
            yield Complaint("health", "watcher", f"{line['level']} {line.get('run', '')}: {line['message'][:300]}")


def too_busy(lives: Iterable[Life], what: str, counted: Mapping[str, int]) -> Iterator[Complaint]:
    """Objects that cost more than their attempts and what was done to them."""
    for life in lives:
        allowed = PER_ATTEMPT * (life.limit + 1) + PER_WRITE * (life.writes + 1)
        if counted.get(life.name, 0) > allowed:
            told = f"{counted[life.name]} {what} for {life.limit} retries and {life.writes} writes of ours"
            yield Complaint("bounds", life.name, told)


def brief(body: Body) -> str:
    """What of an object tells why it stays."""
    spec, status, metadata = body["spec"], body.get("status", {}), body["metadata"]
    told = {key: status.get(key) for key in ("phase", "reason", "message", "runId", "jobId", "observedGeneration")}
    attempts = [{key: str(value)[:80] for key, value in one.items()} for one in status.get("attempts", [])[-2:]]
    where = {key: spec.get(key) for key in ("job", "runId", "connectionRef", "suspend", "cancel", "retry")}
    held = {key: metadata.get(key) for key in ("generation", "deletionTimestamp", "finalizers")}
    return f"{told} {attempts} {where} {held}"[:1_500]
