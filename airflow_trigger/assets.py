"""Assets of dbt Cloud jobs for DAGs that react to runs, no matter who started them. They need Airflow 3.

Airflow drops an asset's watcher as soon as another DAG file names the asset without it. So declare each asset in one
module, and import it from there; `conflicts` finds those that are declared twice.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

try:
    from airflow.sdk import Asset, AssetWatcher
except ImportError:
    raise ImportError(
        "airflow_trigger.assets needs Airflow 3. On 2.11, use DbtRunEventSensor of airflow_trigger.event_sensor."
    ) from None

from airflow_trigger.event_trigger import DbtRunEventTrigger
from airflow_trigger.failures import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

WATCHER: Final = "dbtrun"
LOOK_BACK: Final = 500
"""Earlier events among which a double is looked for: those of a restart follow the ones that they double."""


def dbt_asset(
    job_id: int | None = None, namespace: str | None = None, *, name: str | None = None, **selection: Any
) -> Asset:
    """Returns an asset with an event for each matching DbtRun that ends, no matter how its run was started.

    Args:
        job_id: only runs of this dbt Cloud job.
        namespace: where the DbtRuns are; default: the triggerer pod's own.
        name: the asset's name; default: made of the namespace and the job. Two assets of the same job need different
            names.
        selection: further arguments of DbtRunEventTrigger, such as `phases`, `environment_id`, `labels`, `since`.

    Raises:
        InvalidArgument: an argument cannot be used. It is raised where the DAG file is read, and not in the triggerer.
    """
    if name is None:
        if job_id is None:
            raise InvalidArgument("dbt_asset needs a name if it has no job_id")
        name = f"dbt-job-{job_id}" if namespace is None else f"dbt-job-{namespace}-{job_id}"
    trigger = DbtRunEventTrigger(asset=name, namespace=namespace, job_id=job_id, **selection)
    if trigger.unknown:
        raise InvalidArgument(f"dbt_asset has no argument {next(iter(trigger.unknown))!r}")
    trigger.plan()
    return Asset(name=name, uri=f"x-dbtrun://runs/{name}", watchers=[AssetWatcher(name=WATCHER, trigger=trigger)])


def new_runs(context: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the runs that triggered this DAG run, each once, in the order in which they ended.

    After a restart of a triggerer, an event may be repeated, even in another DAG run. Runs that an earlier DAG run has
    handled are dropped if the task has the asset in its `inlets`. A payload whose `gap` is true says that events may be
    missing.

    Args:
        context: the task's.
    """
    found: dict[str, dict[str, Any]] = {}
    for asset, events in context["triggering_asset_events"].items():
        if not isinstance(asset, Asset):
            continue
        ours = sorted((event for event in events if _payload(event)), key=_when)
        first_told = _first_told(context, asset, ours)
        for event in ours:
            payload = _payload(event) or {}
            if not payload.get("nudge") and first_told.get(payload["key"], _when(event)) >= _when(event):
                found.setdefault(payload["key"], payload)
    return sorted(found.values(), key=lambda payload: payload.get("completed_at") or payload.get("until") or "")


def payloads(events: Iterable[Any]) -> list[dict[str, Any]]:
    """Returns the runs of these asset events, each once, for a DAG that the asset does not trigger."""
    told = [payload for event in sorted(events, key=_when) if (payload := _payload(event)) and not payload.get("nudge")]
    # Backwards, so that the earliest of several doubles is kept.
    return list({payload["key"]: payload for payload in reversed(told)}.values())[::-1]


def _payload(event: Any) -> dict[str, Any] | None:
    """Of an event that the trigger emitted."""
    payload = (event.extra or {}).get("payload")
    return payload if isinstance(payload, dict) and isinstance(payload.get("key"), str) else None


def _when(event: Any) -> Any:
    return event.timestamp


def _first_told(context: Mapping[str, Any], asset: Asset, ours: list[Any]) -> dict[str, Any]:
    """When the first event of each run was emitted."""
    try:
        inlet = context["inlet_events"][asset]
    except (KeyError, TypeError):
        return {}
    if not ours or not hasattr(inlet, "before"):
        return {}
    until, most = _when(ours[-1]).isoformat(), LOOK_BACK + len(ours)
    first: dict[str, Any] = {}
    for event in inlet.before(until).ascending(False).limit(most):
        payload = _payload(event)
        if payload:
            first[payload["key"]] = min(_when(event), first.get(payload["key"], _when(event)))
    return first


# ── a check for a test of the user's DAGs ──


def conflicts(dags: Iterable[Any]) -> list[str]:
    """Returns a sentence for each asset that two DAG files declare with different asset watchers.

    Args:
        dags: all DAGs, as `DagBag("dags").dags.values()`.
    """
    declared: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for dag in dags:
        scheduled = _named_in(getattr(dag.timetable, "asset_condition", None))
        of_tasks = (each for task in dag.tasks for each in (*task.inlets, *task.outlets) if isinstance(each, Asset))
        for asset in (*scheduled, *of_tasks):
            watchers = repr(sorted((watcher.name, repr(watcher.trigger)) for watcher in asset.watchers))
            declared[asset.name][watchers].add(str(dag.fileloc))
    return [
        f"Asset {name!r} is declared with different watchers in {', '.join(sorted(set().union(*kinds.values())))}: "
        "declare it in one module and import it."
        for name, kinds in sorted(declared.items())
        if len(kinds) > 1
    ]


def _named_in(condition: Any) -> Iterator[Asset]:
    """Those of a schedule, which may be nested: `(a | b) & c`."""
    if isinstance(condition, Asset):
        yield condition
    for part in getattr(condition, "objects", ()):
        yield from _named_in(part)
