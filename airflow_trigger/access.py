"""How a worker finds the cluster: from the operator's arguments and an Airflow connection of type `kubernetes`.

It is resolved on the worker, and only names of files and contexts go into the trigger: what is stored with a trigger
can be read by whoever reads Airflow's database.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import BaseHook

from airflow_trigger.cluster import ClusterConfig, own_namespace

if TYPE_CHECKING:
    from collections.abc import Mapping

OLD_PREFIX = "extra__kubernetes__"


@dataclass(frozen=True, slots=True)
class Access:
    """A namespace of a cluster."""

    config: ClusterConfig
    namespace: str


def resolve(
    conn_id: str | None,
    *,
    namespace: str | None,
    in_cluster: bool | None,
    config_file: str | None,
    cluster_context: str | None,
) -> Access:
    """What the arguments say, then the connection, then the pod's own ServiceAccount and namespace.

    Raises:
        ValueError: they contradict each other, or the connection holds a kubeconfig's content.
    """
    extra = {} if conn_id is None else _extra(BaseHook.get_connection(conn_id).extra_dejson)
    if extra.get("kube_config") and config_file is None:
        raise ValueError(
            f"kubernetes_conn_id {conn_id!r} holds the content of a kubeconfig, which a trigger would store: "
            "mount it as a file and set the connection's kube_config_path, or use in_cluster"
        )
    if in_cluster is None and config_file is None:
        in_cluster, config_file = extra.get("in_cluster") or None, extra.get("kube_config_path") or None
    context = cluster_context or (extra.get("cluster_context") or None if config_file else None)
    return Access(
        ClusterConfig(in_cluster, config_file, context), namespace or extra.get("namespace") or own_namespace()
    )


def _extra(extra: Mapping[str, Any]) -> dict[str, Any]:
    return {key.removeprefix(OLD_PREFIX): value for key, value in extra.items()}
