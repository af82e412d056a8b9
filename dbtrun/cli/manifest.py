"""The DbtRun that a command creates. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Final

from dbtrun.api import API_VERSION, KIND, Phase
from dbtrun.cli.view import Run

MAX_BASE: Final = 50
"""Characters of a name to which the API server adds a random end: it may have 63 as a label."""
CANCEL: Final = {"spec": {"cancel": True}}
"""The patch that cancels a DbtRun."""
NOT_AGAIN: Final = ("cancel", "suspend", "retryOf", "runId", "deletionPolicy")
"""Fields of a spec that were about the run that is over."""


def object_of(spec: Mapping[str, Any], *, name: str | None, base: str) -> dict[str, Any]:
    """A DbtRun with a name, or with one that the API server completes."""
    metadata = {"generateName": f"{base}-"} if name is None else {"name": name}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": dict(spec)}


def base_of(job: str) -> str:
    """A job as the beginning of a name of Kubernetes."""
    plain = re.sub(r"[^a-z0-9]+", "-", job.lower()).strip("-")[:MAX_BASE].rstrip("-")
    return plain if plain and not plain.isdecimal() else f"job-{plain}".rstrip("-")


def again(body: Mapping[str, Any], run: Run, *, fresh: bool) -> dict[str, Any]:
    """A DbtRun that does once more what one that is over did.

    Args:
        body: it as the API server has it.
        run: the same, read.
        fresh: whether the whole job runs again, although its run failed and could be resumed.

    Raises:
        ValueError: which job it ran is not known.
    """
    spec = {key: value for key, value in deepcopy(dict(body["spec"])).items() if key not in NOT_AGAIN}
    if "job" not in spec:
        if run.status.job_id is None:
            raise ValueError(f"{run.name} followed the run {run.run_id}, and its job is not known: use dbtrun run JOB.")
        spec["job"] = {"id": run.status.job_id}
    spec.setdefault("cause", f"Retry of {run.name}"[:200])
    if not fresh and run.phase == Phase.FAILED and run.status.run_id is not None:
        spec["retryOf"] = run.status.run_id
    # Without what an earlier retry added, so that names do not grow.
    stem = re.sub(r"-retry(-[a-z0-9]{5})?$", "", run.name)[: MAX_BASE - len("-retry")].rstrip("-.")
    return object_of(spec, name=None, base=f"{stem}-retry")
