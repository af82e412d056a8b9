"""How a worker finds the cluster: from the operator's arguments and an Airflow connection of type `kubernetes`.

It is resolved on the worker, and only names of files and contexts go into the trigger: anyone who reads
Airflow's database can read what is stored with a trigger.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from airflow.providers.common.compat.sdk import BaseHook, BaseOperator

from airflow_trigger.failures import InvalidArgument
from airflow_trigger.shared.arguments import boolean, text
from airflow_trigger.shared.naming import namespace_name
from dbtrun.kube.config import ClusterConfig, own_namespace

# Older releases of the provider cncf.kubernetes have stored the connection's extras under it.
OLD_PREFIX = "extra__kubernetes__"


@dataclass(frozen=True, slots=True)
class Access:
    """A namespace of a cluster."""

    config: ClusterConfig
    namespace: str

    def as_arguments(self) -> dict[str, Any]:
        """The same as arguments of a trigger, which resolves nothing."""
        config = self.config
        return {
            "namespace": self.namespace,
            "in_cluster": config.in_cluster,
            "config_file": config.config_file,
            "cluster_context": config.context,
        }


class ClusterOperator(BaseOperator):
    """What each operator here takes to find its cluster.

    :param namespace: where the DbtRun is. Default: the Kubernetes connection's, else the pod's own.
    :param kubernetes_conn_id: an Airflow connection of type `kubernetes`; default: none is looked up.
    :param in_cluster: use the pod's ServiceAccount (default without config_file).
    :param config_file: a kubeconfig, at the same path on workers and triggerers.
    :param cluster_context: the kubeconfig's context.
    """

    # A BaseOperator, not a mixin of its own kind: `default_args` and `partial` know only the arguments of classes whose
    # metaclass is Airflow's (BaseOperatorMeta).
    def __init__(
        self,
        *,
        namespace: str | None = None,
        kubernetes_conn_id: str | None = None,
        in_cluster: bool | None = None,
        config_file: str | None = None,
        cluster_context: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.namespace = namespace
        self.kubernetes_conn_id = kubernetes_conn_id
        self.in_cluster = in_cluster
        self.config_file = config_file
        self.cluster_context = cluster_context
        self._access: Access | None = None

    @property
    def _home(self) -> Access:
        """Resolved once, and not before the templates are rendered."""
        if self._access is None:
            self._access = resolve(
                self.kubernetes_conn_id,
                namespace=self.namespace,
                in_cluster=self.in_cluster,
                config_file=self.config_file,
                cluster_context=self.cluster_context,
            )
        return self._access


def resolve(
    conn_id: object,
    *,
    namespace: object,
    in_cluster: object,
    config_file: object,
    cluster_context: object,
) -> Access:
    """What the arguments say, then the connection, then the pod's own ServiceAccount and namespace.

    A connection written as a URI holds nothing but text: `in_cluster=false` means what it says.

    Raises:
        InvalidArgument: they contradict each other, or the connection holds a kubeconfig's content.
    """
    conn_id = text("kubernetes_conn_id", conn_id)
    asked = namespace_name(namespace)
    chosen, file = boolean("in_cluster", in_cluster), text("config_file", config_file)
    context = text("cluster_context", cluster_context)
    found = {} if conn_id is None else BaseHook.get_connection(conn_id).extra_dejson
    extra: dict[str, Any] = {key.removeprefix(OLD_PREFIX): value for key, value in found.items()}
    if extra.get("kube_config") and file is None:
        raise InvalidArgument(
            f"kubernetes_conn_id {conn_id!r} holds the content of a kubeconfig, which a trigger would store: "
            "mount it as a file and set the connection's kube_config_path, or use in_cluster"
        )
    of = f"kubernetes_conn_id {conn_id!r}: "
    if chosen is None and file is None:
        chosen = boolean(f"{of}in_cluster", extra.get("in_cluster")) or None
        file = text(f"{of}kube_config_path", extra.get("kube_config_path"))
    if context is None and file is not None:
        context = text(f"{of}cluster_context", extra.get("cluster_context"))
    home = asked or namespace_name(extra.get("namespace")) or own_namespace()
    return Access(cluster_config(chosen, file, context), home)


def cluster_config(in_cluster: bool | None, config_file: str | None, context: str | None) -> ClusterConfig:
    """Which cluster.

    Raises:
        InvalidArgument: the arguments exclude each other.
    """
    try:
        return ClusterConfig(in_cluster, config_file, context)
    except ValueError as error:
        raise InvalidArgument(str(error)) from None
