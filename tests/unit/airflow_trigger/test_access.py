"""How a worker finds the cluster."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.common.compat.sdk import BaseHook

from airflow_trigger.shared.access import Access, resolve
from dbtrun.kube.config import ClusterConfig


class Connection:
    """An Airflow connection as far as it is read."""

    def __init__(self, **extra: Any) -> None:
        self.extra_dejson = extra


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> Any:
    def define(**extra: Any) -> None:
        monkeypatch.setattr(BaseHook, "get_connection", lambda conn_id: Connection(**extra))

    return define


def resolved(conn_id: str | None = "kubernetes_default", **arguments: Any) -> Access:
    nothing: dict[str, Any] = dict.fromkeys(("namespace", "in_cluster", "config_file", "cluster_context"))
    return resolve(conn_id, **nothing | arguments)


def test_without_anything_it_is_the_pods_own_and_no_connection_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BaseHook, "get_connection", lambda conn_id: pytest.fail("looked up"))
    assert resolved(None) == Access(ClusterConfig(), "default")


def test_a_connection_names_a_kubeconfig_its_context_and_the_namespace(connection: Any) -> None:
    connection(kube_config_path="/kube/config", cluster_context="prod", namespace="team")
    assert resolved() == Access(ClusterConfig(None, "/kube/config", "prod"), "team")


def test_extras_of_older_airflows_are_read(connection: Any) -> None:
    connection(extra__kubernetes__in_cluster=True, extra__kubernetes__namespace="team")
    assert resolved() == Access(ClusterConfig(True), "team")


def test_arguments_come_before_the_connection(connection: Any) -> None:
    connection(in_cluster=True, namespace="team", cluster_context="prod")
    assert resolved(config_file="/mine", namespace="mine") == Access(ClusterConfig(None, "/mine", "prod"), "mine")


def test_a_kubeconfigs_content_is_a_secret_that_no_trigger_may_store(connection: Any) -> None:
    connection(kube_config='{"users": [{"user": {"token": "s3cret"}}]}')
    with pytest.raises(ValueError, match="mount it as a file") as info:
        resolved()
    assert "s3cret" not in str(info.value)
