"""The DbtRun of a run that others started, and the conditions of the mirror that has created it. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from dbtrun.api import API_VERSION, KIND, MIRROR_LABEL, DeletionPolicy
from dbtrun.api.mirrors import (
    CAUSE_LABEL,
    ENVIRONMENT_LABEL,
    JOB_LABEL,
    DbtRunMirror,
    MirrorCondition,
    MirrorConditionStatus,
    MirrorStatus,
)
from dbtrun.api.status import MAX_MESSAGE, ConditionStatus
from dbtrun.text import clean
from watcher.lifecycle.facts import RunFacts
from watcher.mirrors.selection import cause_of


def name_of(mirror: str, run_id: int) -> str:
    """The same for the same run, so that it cannot appear twice."""
    return f"{mirror}-{run_id}"


def dbt_run(mirror: DbtRunMirror, run: RunFacts) -> dict[str, Any]:
    """The DbtRun to create. It follows the run and starts nothing; deleting it does nothing to the run."""
    template, metadata = mirror.spec.template, mirror.metadata
    labels = {
        # First, so that it cannot replace the labels below, by which the objects are found and counted.
        **template.labels,
        MIRROR_LABEL: metadata.name,
        JOB_LABEL: str(run.job_id),
        CAUSE_LABEL: cause_of(run).value,
    }
    if run.environment_id is not None:
        labels[ENVIRONMENT_LABEL] = str(run.environment_id)
    spec: dict[str, Any] = {
        "runId": run.run_id,
        # Accounts number their runs on their own: should the connection name another one, nothing of that is shown.
        "accountId": run.account_id,
        "deletionPolicy": DeletionPolicy.ORPHAN.value,
    }
    if mirror.spec.connection_ref is not None:
        spec["connectionRef"] = {"name": mirror.spec.connection_ref.name}
    if template.artifacts:
        spec["artifacts"] = list(template.artifacts)
    if template.ttl_seconds_after_finished is not None:
        spec["ttlSecondsAfterFinished"] = template.ttl_seconds_after_finished
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {
            "name": name_of(metadata.name, run.run_id),
            "namespace": metadata.namespace,
            "labels": labels,
            "ownerReferences": [mirror.owner_reference],
        },
        "spec": spec,
    }


class Told:
    """A condition before it has its times."""

    __slots__ = ("message", "reason", "status", "type")

    def __init__(self, kind: MirrorCondition, status: bool | None, reason: str, message: str) -> None:
        self.type, self.reason, self.message = kind, reason, clean(message, MAX_MESSAGE)
        self.status = {True: ConditionStatus.TRUE, False: ConditionStatus.FALSE, None: ConditionStatus.UNKNOWN}[status]


def stamped(
    status: MirrorStatus, told: tuple[Told, ...], generation: int, now: datetime
) -> tuple[MirrorConditionStatus, ...]:
    """The conditions with the times of their last changes."""
    conditions = []
    for each in told:
        before = status.condition(each.type)
        same = before is not None and before.status is each.status
        condition = MirrorConditionStatus(
            type=each.type,
            status=each.status,
            reason=each.reason,
            message=each.message,
            last_transition_time=before.last_transition_time if before and same else now.replace(microsecond=0),
            observed_generation=generation,
        )
        conditions.append(condition)
    return tuple(conditions)
