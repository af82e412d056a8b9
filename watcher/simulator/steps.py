"""The steps of a run at an instant, and the artifacts they leave. Derived, never stored: a pure view of the run.

dbt Cloud shows three steps of its own (clone, profile, deps) before the job's commands; indexes count from 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from watcher.simulator.model import RUN_BASE, Run, Status
from watcher.simulator.project import catalog, manifest
from watcher.simulator.scenario import NodeResult

if TYPE_CHECKING:
    from watcher.simulator.clock import Clock

SYSTEM = ("Clone git repository", "Create profile from connection Warehouse", "Invoke dbt with `dbt deps`")
FAILS_AT = {"clone": 1, "profile": 2, "deps": 3}
SYSTEM_SHARE = 0.02  # of the run's time, each
STEP_BASE = 80000000000000
PER_RUN = 100


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a run, as the API shows it."""

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
        """The id of the step."""
        return STEP_BASE + (self.run.id - RUN_BASE) * PER_RUN + self.index

    @property
    def seconds(self) -> float:
        """How long it took."""
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
    executed = len(names)
    if run.failing_command is not None and Status.SUCCESS not in (run.outcome, run.status):
        # The steps behind the one that fails never run.
        executed = FAILS_AT.get(run.fails_at or "", len(SYSTEM) + run.failing_command + 1)
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
    if executed <= len(SYSTEM):
        return [index / executed for index in range(executed + 1)]
    system = [SYSTEM_SHARE * index for index in range(len(SYSTEM))]
    first, own = SYSTEM_SHARE * len(SYSTEM), executed - len(SYSTEM)
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

FRESHNESS = "dbt source freshness"
COMPILES = {"dbt docs generate": "generate", "dbt compile": "compile"}


def artifact_names(run: Run) -> list[str]:
    """The names of the files that the run has left."""
    if run.fails_at is not None and run.status is Status.ERROR:
        return []
    names = ["manifest.json", "run_results.json"]
    if any(command.startswith(FRESHNESS) for command in run.commands):
        names.append("sources.json")
    return [*names, "catalog.json"] if "dbt docs generate" in run.commands and run.status is Status.SUCCESS else names


def artifact(run: Run, name: str, step: int | None, clock: Clock) -> dict[str, Any] | None:
    """The content of an artifact of a step (default the last one that ran); None if that step left no such file."""
    executed = [s for s in steps(run, clock) if s.status in (Status.SUCCESS, Status.ERROR)]
    chosen = executed[-1] if step is None and executed else next((s for s in executed if s.index == step), None)
    if chosen is None or chosen.index <= len(SYSTEM) or name not in artifact_names(run):
        return None
    schema = run.request.schema_override or "analytics"
    if name == "manifest.json":
        return manifest(_everything(run), _metadata(chosen, "manifest/v12"), schema)
    if name == "catalog.json":
        return catalog(_everything(run), _metadata(chosen, "catalog/v1"), schema)
    command, results = chosen.command or "", _results(run, chosen)
    if (name == "sources.json") is not command.startswith(FRESHNESS):
        return None
    if name == "sources.json":
        sources = [_source(result, chosen) for result in results]
        return {"metadata": _metadata(chosen, "sources/v3"), "results": sources, "elapsed_time": 0.5}
    which = COMPILES.get(command) or command.removeprefix("dbt ").partition(" ")[0]
    return {
        "metadata": _metadata(chosen, "run-results/v6"),
        "results": results,
        "elapsed_time": round(chosen.seconds, 6),
        "args": {"which": which, "invocation_command": command},
    }


def _metadata(step: Step, schema: str) -> dict[str, Any]:
    run, at = step.run, step.finished_at or step.now
    return {
        "dbt_schema_version": f"https://schemas.getdbt.com/dbt/{schema}.json",
        "dbt_version": run.dbt_version,
        "generated_at": datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "invocation_id": str(UUID(int=step.id)),
        "env": {"DBT_CLOUD_RUN_ID": str(run.id), "DBT_CLOUD_JOB_ID": str(run.job_id)},
    }


def _everything(run: Run) -> list[str]:
    """Every node that the run knows of, also those of single steps."""
    of_steps = [result.node for step in run.results or () for result in step]
    return [*run.nodes, *(node.node for node in run.failing), *of_steps]


def _results(run: Run, step: Step) -> list[dict[str, Any]]:
    """The nodes of a step, as the scenario gives them, or all of them with those that fail last."""
    place = step.index - len(SYSTEM) - 1
    if step.command in COMPILES:
        nodes = [NodeResult(node=name) for name in run.nodes]
    elif run.results is not None and place < len(run.results):
        nodes = run.results[place]
    else:
        failing = [
            NodeResult(node=node.node, status=node.status, message=node.message, failures=node.failures)
            for node in (run.failing if step.status is Status.ERROR else ())
        ]
        failed = {node.node for node in failing}
        nodes = [*(NodeResult(node=name) for name in run.nodes if name not in failed), *failing]
    share = round(step.seconds / max(1, len(nodes)), 6)
    return [
        {
            "unique_id": node.node,
            "status": node.status,
            "message": node.message or ("SUCCESS 1" if node.status == "success" else None),
            "failures": node.failures,
            "execution_time": share,
            "thread_id": "Thread-1",
            "timing": [],
            "adapter_response": {},
            "compiled": True,
            "compiled_code": None,
            "relation_name": f"{run.request.schema_override or 'analytics'}.{node.node.rpartition('.')[2]}",
        }
        for node in nodes
    ]


def _source(result: dict[str, Any], step: Step) -> dict[str, Any]:
    """A source as sources.json has it: how old its newest row is, not a message."""
    stamp = step.finished_at or step.now
    age = 0.0 if result["status"] in ("pass", "success") else 259_200.0
    snapshot, loaded = (datetime.fromtimestamp(at, UTC).isoformat() for at in (stamp, stamp - age))
    period = {"count": 1, "period": "day"}
    return {
        "unique_id": result["unique_id"],
        "status": "pass" if result["status"] == "success" else result["status"],
        "max_loaded_at": loaded,
        "snapshotted_at": snapshot,
        "max_loaded_at_time_ago_in_s": age,
        "criteria": {"warn_after": None, "error_after": period, "filter": None},
        "adapter_response": {},
        "timing": [],
        "thread_id": "Thread-1",
        "execution_time": result["execution_time"],
    }
