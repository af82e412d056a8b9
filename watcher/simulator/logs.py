"""What the log of a step says: the words of git and dbt for the commonest ways to fail."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from watcher.simulator.model import Status

if TYPE_CHECKING:
    from watcher.simulator.steps import Step

VERBS: Final = {Status.SUCCESS: "Success", Status.ERROR: "Error", Status.CANCELLED: "Cancelled"}
CAUSES: Final = {
    "clone": (
        "Cloning into '/tmp/jobs/{run}/target'...",
        "remote: Repository not found.",
        "fatal: repository 'https://github.com/acme/shop.git/' not found",
    ),
    "profile": (
        "Runtime Error",
        '  Credentials in profile "user", target "default" invalid: \'password\' is a required property',
    ),
    "deps": (
        "{time}  Running with dbt={version}",
        "{time}  Encountered an error:",
        "Runtime Error",
        "  Package dbt-labs/dbt_utilz was not found in the package index. Check it for any updates or typos",
    ),
    "parse": (
        "{time}  Running with dbt={version}",
        "{time}  Encountered an error:",
        "Compilation Error",
        "  Model 'model.shop.orders' (models/orders.sql) depends on a node named 'ordrs' which was not found",
    ),
}
"""The end of the log of a step that fails so."""


def log_of(step: Step) -> str:
    """The log as far as the step has got; empty before it begins."""
    if step.started_at is None:
        return ""
    lines = [f"Running {step.name}"]
    if step.status is Status.ERROR:
        lines += _cause(step)
    if step.finished_at is not None:
        lines.append(f"Finished: {VERBS.get(step.status, step.status.name)}")
    return "\n".join(lines) + "\n"


def _cause(step: Step) -> list[str]:
    run = step.run
    if run.log is not None:
        return run.log.splitlines()
    time = datetime.fromtimestamp(step.started_at or 0.0, UTC).strftime("%H:%M:%S")
    if run.fails_at is not None:
        return [line.format(run=run.id, time=time, version=run.dbt_version) for line in CAUSES[run.fails_at]]
    told = [f"{time}  Completed with {len(run.failing)} errors and 0 warnings:"]
    for node in run.failing:
        kind, _, rest = node.node.partition(".")
        name = rest.rpartition(".")[2]
        if kind == "source":
            what = f"ERROR STALE freshness of {rest}"
        elif node.status == "fail":
            what = f"Failure in test {name} (models/schema.yml)"
        else:
            what = f"Database Error in {kind} {name} (models/{name}.sql)"
        told += [time, f"{time}    {what}", f"{time}      {node.message}"]
    return [*told, f"{time}", f"{time}  Done. PASS=0 WARN=0 ERROR={len(run.failing)} SKIP=0"]
