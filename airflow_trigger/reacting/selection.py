"""Which finished DbtRuns a watcher of an asset reports, from arguments of any kind. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from airflow_trigger.failures import InvalidArgument
from airflow_trigger.shared.access import cluster_config
from airflow_trigger.shared.arguments import boolean, mapping, number, shown, text
from airflow_trigger.shared.naming import namespace_name
from airflow_trigger.waiting.runs import is_of_one_try
from dbtrun.api import FINAL_PHASES, Phase
from dbtrun.kube.config import own_namespace
from dbtrun.values import digest

if TYPE_CHECKING:
    from airflow_trigger.shared.objects import Run
    from dbtrun.kube.config import ClusterConfig

NOW: Final = "now"
BEGINNING: Final = "beginning"
MAX_REPLAY: Final = 10_000
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Selection:
    """Conditions that must all hold."""

    phases: frozenset[str]
    job_id: int | None = None
    environment_id: int | None = None
    labels: tuple[tuple[str, str], ...] = ()

    def matches(self, run: Run) -> bool:
        """Whether the run is over, and is one of these."""
        status = run.status
        return (
            status.phase in self.phases
            and status.completion_time is not None
            and (self.job_id is None or self.job_id == status.job_id)
            and (self.environment_id is None or self.environment_id == status.environment_id)
            and all(run.metadata.labels.get(key) == value for key, value in self.labels)
        )


@dataclass(frozen=True)
class Plan:
    """What the arguments of a watcher ask for."""

    config: ClusterConfig
    namespace: str
    selection: Selection
    asset: str
    from_now: bool
    max_replay: int

    @property
    def stored_as(self) -> str:
        """Under which name the position is kept where names are shared with others."""
        selection = self.selection
        # With the selection: a position says nothing about runs that another selection would have had.
        told = (self.namespace, self.asset, sorted(selection.phases), selection.job_id, selection.environment_id)
        return f"dbtrun_position_{digest(repr((*told, selection.labels)), 32)}"


def plan_of(arguments: Mapping[str, Any]) -> Plan:
    """The plan.

    Raises:
        InvalidArgument: one of the arguments cannot be used; the sentence names it.
    """
    since = text("since", arguments["since"]) or NOW
    if since not in (NOW, BEGINNING):
        raise InvalidArgument(f"since must be {NOW!r} or {BEGINNING!r}, not {shown(since)}")
    return Plan(
        config=cluster_config(
            boolean("in_cluster", arguments["in_cluster"]),
            text("config_file", arguments["config_file"]),
            text("cluster_context", arguments["cluster_context"]),
        ),
        namespace=namespace_name(arguments["namespace"]) or own_namespace(),
        selection=Selection(
            phases_of(arguments["phases"]),
            number("job_id", arguments["job_id"]),
            number("environment_id", arguments["environment_id"]),
            labels_of(arguments["labels"]),
        ),
        asset=text("asset", arguments["asset"]) or "",
        from_now=since == NOW,
        max_replay=min(number("max_replay", arguments["max_replay"]) or 1, MAX_REPLAY),
    )


def phases_of(value: object) -> frozenset[str]:
    """The phases that are waited for.

    Raises:
        InvalidArgument: there are none, or one of them is not the phase of a finished run.
    """
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, Sequence | Set) or isinstance(given, bytes) or not given:
        raise InvalidArgument(f"phases must be a list of phases, not {shown(value)}")
    odd = next((each for each in given if not (isinstance(each, str) and each in _FINAL)), None)
    if odd is not None:
        raise InvalidArgument(
            f"phases: a run does not end in phase {shown(odd)}; choose from {', '.join(sorted(_FINAL))}"
        )
    return frozenset(given)


def labels_of(value: object) -> tuple[tuple[str, str], ...]:
    """The labels that a DbtRun must have.

    Raises:
        InvalidArgument: one of them is no text, or tells the tries of a single task apart.
    """
    if isinstance(value, list) and all(isinstance(each, str) and "=" in each for each in value):
        # As a trigger stores them.
        value = dict(each.split("=", 1) for each in value)
    found = {key: text(f"labels[{key!r}]", each) or "" for key, each in mapping("labels", value).items()}
    single = next((key for key in found if is_of_one_try(key)), None)
    if single is not None:
        raise InvalidArgument(f"labels[{single!r}] cannot be used here: it is the label of a single try")
    return tuple(sorted(found.items()))


def ended_at(run: Run) -> datetime:
    """When the object became final, by the API server's clock."""
    return run.status.completion_time or EPOCH


_FINAL: Final = frozenset(Phase(phase).value for phase in FINAL_PHASES)
