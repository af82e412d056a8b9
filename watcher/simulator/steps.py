"""The steps of a run at an instant, and the artifacts they leave. Derived, never stored: a pure view of the run.

dbt Cloud shows three steps of its own (clone, profile, deps) before the job's commands; indexes count from 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from watcher.simulator.model import RUN_BASE, Run, Status

if TYPE_CHECKING:
    from watcher.simulator.clock import Clock
    from watcher.simulator.scenario import FailingNode

SYSTEM = ("Clone git repository", "Create profile from connection Warehouse", "Invoke dbt with `dbt deps`")
SYSTEM_SHARE = 0.02  # of the run's time, each
STEP_BASE = 80000000000000
PER_RUN = 100


@dataclass(frozen=True, slots=True)
class Step:
    run: Run
    index: int
    name: str
    command: str | None
    status: Status
    started_at: float | None
    finished_at: float | None
    now: float

    @property
    def id(self) -> int:
        return STEP_BASE + (self.run.id - RUN_BASE) * PER_RUN + self.index

    @property
    def seconds(self) -> float:
        return 0.0 if self.started_at is None else (self.finished_at or self.now) - self.started_at


def run_of_step(step_id: int) -> tuple[int, int]:
    """The run's id and the index of the step, from the step's id."""
    run, index = divmod(step_id - STEP_BASE, PER_RUN)
    return run + RUN_BASE, index


def steps(run: Run, clock: Clock) -> list[Step]:
    """Every step of a run that has started; before that there are none."""
    if run.started_at is None or run.started_time is None:
        return []
    now = clock.stamp(clock.now())
    end = run.finished_at if run.finished_at is not None else now
    done = _done(run, clock)
    commands: list[str | None] = [None, None, "dbt deps", *run.commands]
    names = [*SYSTEM, *(f"Invoke dbt with `{command}`" for command in run.commands)]
    last = _last(run)
    executed = last if last is not None else len(names)
    edges = _edges(executed)
    view = []
    for index, (name, command) in enumerate(zip(names, commands, strict=True), 1):
        status = _status(run, index, done, edges)
        begun = index <= executed and status is not Status.QUEUED and edges[index - 1] <= done
        over = begun and status.final
        view.append(
            Step(
                run,
                index,
                name,
                command,
                status,
                _moment(run.started_at, end, edges[index - 1], done) if begun else None,
                _moment(run.started_at, end, min(edges[index], done), done) if over else None,
                now,
            )
        )
    return view


def _last(run: Run) -> int | None:
    """The index of the step that fails, if one does; the ones behind it never run."""
    if run.failing_command is None or run.outcome is Status.SUCCESS or run.status is Status.SUCCESS:
        return None
    return len(SYSTEM) + run.failing_command + 1


def _done(run: Run, clock: Clock) -> float:
    """How much of the executed part is over, 0 to 1."""
    if run.status in (Status.SUCCESS, Status.ERROR):
        return 1.0
    if run.run is None:
        return len(SYSTEM) * SYSTEM_SHARE  # held in its first command
    until = run.finished_time if run.finished_time is not None else clock.now()
    return min((until - (run.started_time or 0.0)) / run.run, 1.0) if run.run else 1.0


def _edges(executed: int) -> list[float]:
    """Where each executed step begins, and where the last one ends."""
    system = [SYSTEM_SHARE * index for index in range(len(SYSTEM))]
    first, own = SYSTEM_SHARE * len(SYSTEM), max(executed - len(SYSTEM), 1)
    return [*system, *(first + (1 - first) * index / own for index in range(own + 1))]


def _status(run: Run, index: int, done: float, edges: list[float]) -> Status:
    executed = len(edges) - 1
    if run.status is Status.SUCCESS:
        return Status.SUCCESS
    if run.status is Status.ERROR:
        return Status.SUCCESS if index < executed else Status.ERROR if index == executed else Status.CANCELLED
    if index <= executed and edges[index] <= done:
        return Status.SUCCESS
    if run.status is Status.CANCELLED:
        return Status.CANCELLED
    return Status.RUNNING if index <= executed and edges[index - 1] <= done else Status.QUEUED


def _moment(start: float, end: float, edge: float, done: float) -> float:
    return start + (end - start) * (edge / done if done else 0.0)


# Artifacts


def artifact_names(run: Run) -> list[str]:
    names = ["manifest.json", "run_results.json"]
    return [*names, "catalog.json"] if "dbt docs generate" in run.commands and run.status is Status.SUCCESS else names


def artifact(run: Run, name: str, step: int | None, clock: Clock) -> dict[str, Any] | None:
    """The content of an artifact of a step (default the last one that ran); None if that step left no such file."""
    executed = [s for s in steps(run, clock) if s.status in (Status.SUCCESS, Status.ERROR)]
    chosen = executed[-1] if step is None and executed else next((s for s in executed if s.index == step), None)
    if chosen is None or chosen.index <= len(SYSTEM) or name not in artifact_names(run):
        return None
    if name == "manifest.json":
        return {"metadata": _metadata(run, "manifest/v12"), "nodes": {node: _node(node) for node in run.nodes}}
    if name == "catalog.json":
        return {"metadata": _metadata(run, "catalog/v1"), "nodes": {node: _node(node) for node in run.nodes}}
    return {
        "metadata": _metadata(run, "run-results/v6"),
        "results": _results(run, chosen),
        "elapsed_time": round(chosen.seconds, 6),
        "args": {"invocation_command": chosen.command},
    }


def _metadata(run: Run, schema: str) -> dict[str, Any]:
    return {
        "dbt_schema_version": f"https://schemas.getdbt.com/dbt/{schema}.json",
        "dbt_version": run.dbt_version,
        "env": {"DBT_CLOUD_RUN_ID": str(run.id), "DBT_CLOUD_JOB_ID": str(run.job_id)},
    }


def _node(unique_id: str) -> dict[str, str]:
    kind, _, rest = unique_id.partition(".")
    return {"unique_id": unique_id, "resource_type": kind, "name": rest.rpartition(".")[2]}


def _results(run: Run, step: Step) -> list[dict[str, Any]]:
    failing = {node.node: node for node in run.failing} if step.status is Status.ERROR else {}
    names = [*(name for name in run.nodes if name not in failing), *failing]
    share = round(step.seconds / len(names), 6)
    return [_result(name, failing.get(name), share, run) for name in names]


def _result(unique_id: str, failing: FailingNode | None, seconds: float, run: Run) -> dict[str, Any]:
    return {
        "unique_id": unique_id,
        "status": failing.status if failing else "success",
        "message": failing.message if failing else "SUCCESS 1",
        "failures": failing.failures if failing else None,
        "execution_time": seconds,
        "thread_id": "Thread-1",
        "timing": [],
        "adapter_response": {},
        "compiled": True,
        "relation_name": f"{run.request.schema_override or 'analytics'}.{unique_id.rpartition('.')[2]}",
    }
