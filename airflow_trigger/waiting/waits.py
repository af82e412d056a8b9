"""What a trigger waits for, from its arguments. Pure.

A trigger's constructor only stores: whatever it raised would end the triggerer, with the triggers of all DAGs, again
after each restart. So arguments become this plan when the trigger runs, after Airflow rendered those that are
templates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from airflow_trigger.failures import InvalidArgument
from airflow_trigger.shared.access import cluster_config
from airflow_trigger.shared.arguments import boolean, mapping, number, real, text
from airflow_trigger.shared.naming import adopted_name, connection_name, namespace_name, object_name
from dbtrun.api import API_VERSION, KIND, ConnectionRef, Spec, to_wire
from dbtrun.kube.config import own_namespace

if TYPE_CHECKING:
    from airflow_trigger.shared.objects import RunSpec
    from dbtrun.kube.config import ClusterConfig

MIN_POLL_SECONDS: Final = 5
MAX_POLL_SECONDS: Final = 3_600
DEFAULT_POLL_SECONDS: Final = 60.0
ADOPTED_TTL_SECONDS: Final = 86_400
"""An adopted run's object outlives the longest time that Airflow may take to resume a task, then cleans itself up."""
DENIED_GRACE_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """What is waited for, how long, and where. Instants in seconds since the epoch, durations in seconds."""

    config: ClusterConfig
    namespace: str
    name: str
    run_id: int | None
    adopts: bool
    """Whether the object may be created, to follow `run_id`."""
    connection: str | None
    account_id: int | None
    poll_interval: float
    start_time: float
    end_time: float | None
    denied_grace: float
    until_started: bool
    log_steps: bool
    cancel_for: dict[str, Any] | None

    def is_followed_by(self, spec: RunSpec) -> bool:
        """Whether an object with this spec is the one that is waited for.

        One that is to follow a run must follow this run, by this connection: anyone who may create objects can give one
        any name, and another connection may be another account with a run of the same number.
        """
        if not self.adopts:
            return True
        connection = spec.connection_ref.name if spec.connection_ref else None
        account = None in (self.account_id, spec.account_id) or self.account_id == spec.account_id
        return account and (spec.run_id, connection) == (self.run_id, self.connection)

    def manifest(self) -> dict[str, Any]:
        """The DbtRun that follows a run which exists already."""
        spec = Spec(
            connection_ref=None if self.connection is None else ConnectionRef(name=self.connection),
            run_id=self.run_id,
            account_id=self.account_id,
            # The bounds of the CRD: a DAG with another interval is not failed for it.
            poll_interval_seconds=min(max(round(self.poll_interval), MIN_POLL_SECONDS), MAX_POLL_SECONDS),
            ttl_seconds_after_finished=ADOPTED_TTL_SECONDS,
        )
        return {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": self.name, "labels": {"app.kubernetes.io/managed-by": "airflow"}},
            "spec": to_wire(spec),
        }


class Arguments(Protocol):
    """Those of DbtRunTrigger. A template, or a release of another time, may have made anything of them."""

    conn_id: Any
    run_id: Any
    end_time: Any
    poll_interval: Any
    account_id: Any
    name: Any
    namespace: Any
    in_cluster: Any
    config_file: Any
    cluster_context: Any
    start_time: Any
    denied_grace: Any
    cancel_for: Any
    until_started: Any
    log_steps: Any


def wait_of(given: Arguments) -> Wait:
    """The plan that a trigger's arguments make.

    Raises:
        InvalidArgument: one of them cannot be used; the sentence names it.
    """
    name, run_id = object_name("name", given.name), number("run_id", given.run_id)
    connection = connection_name("conn_id", given.conn_id) if name is None else None
    if name is None and run_id is None:
        raise InvalidArgument("DbtRunTrigger needs run_id, or the name of a DbtRun")
    grace, poll = real("denied_grace", given.denied_grace), real("poll_interval", given.poll_interval)
    return Wait(
        config=cluster_config(
            boolean("in_cluster", given.in_cluster),
            text("config_file", given.config_file),
            text("cluster_context", given.cluster_context),
        ),
        namespace=namespace_name(given.namespace) or own_namespace(),
        name=name or adopted_name(run_id or 0, connection),
        run_id=run_id,
        adopts=name is None,
        connection=connection,
        account_id=number("account_id", given.account_id),
        poll_interval=DEFAULT_POLL_SECONDS if poll is None else poll,
        start_time=real("start_time", given.start_time) or 0.0,
        end_time=real("end_time", given.end_time),
        denied_grace=DENIED_GRACE_SECONDS if grace is None else grace,
        until_started=bool(boolean("until_started", given.until_started)),
        log_steps=bool(boolean("log_steps", given.log_steps)),
        cancel_for=_task(given.cancel_for),
    )


def _task(given: object) -> dict[str, Any] | None:
    """The task instance of `cancel_for`."""
    if given is None or given == "":
        return None
    task = mapping("cancel_for", given)
    missing = {"dag_id", "run_id", "task_id", "map_index", "try_number"} - task.keys()
    if missing:
        raise InvalidArgument(f"cancel_for needs {', '.join(sorted(missing))}")
    return task
