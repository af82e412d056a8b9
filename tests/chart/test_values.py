"""What the chart makes of its values, without a cluster."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import yaml

from tests.chart.helm import CHART, VALUES, Helm, env_of
from watcher.settings import described

SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
HELM_ONLY = {"global"}
CHOSEN_BY_THE_CHART = {"namespaces", "connection_dir", "connection_namespaces", "listen", "kubeconfig", "context"}
CHOSEN_BY_THE_CHART |= {"leader_election", "lease_name"}


def snake_case(name: str) -> str:
    return re.sub(r"(?=[A-Z])", "_", name).lower()


def test_the_chart_is_well_formed(helm: Helm) -> None:
    answer = helm.run("lint", "--strict", str(CHART))
    assert answer.returncode == 0, answer.stdout


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("watchNamespace={a}", "at '': additional properties 'watchNamespace' not allowed"),
        ("settings.requestPerMinute=5", "at '/settings': additional properties 'requestPerMinute' not allowed"),
        ("settings.requestsPerMinute=0", "at '/settings/requestsPerMinute': minimum: got 0, want 1"),
        ("settings.requestsPerMinute=9000", "at '/settings/requestsPerMinute': maximum: got 9,000, want 5,000"),
        ("settings.logFormat=xml", "at '/settings/logFormat': value must be one of 'json', 'text'"),
        ("replicas=11", "at '/replicas': maximum: got 11, want 10"),
        ("watchNamespaces=team-a", "at '/watchNamespaces': got string, want array"),
        ("watchNamespaces={Team}", "at '/watchNamespaces/0': 'Team' does not match pattern"),
        ("image.digest=latest", "at '/image/digest': 'latest' does not match pattern"),
        ("port=80", "at '/port': minimum: got 80, want 1,024"),
        ("crds.keep=maybe", "at '/crds/keep': got string, want boolean"),
        ("airflow.serviceAccounts[0].name=w", "at '/airflow/serviceAccounts/0': missing property 'namespace'"),
    ],
)
def test_a_bad_value_is_one_sentence_that_names_it(helm: Helm, wrong: str, told: str) -> None:
    answer = helm.run("template", "dbtrun", str(CHART), "--set", wrong)
    assert answer.returncode == 1
    (sentence,) = (line for line in answer.stderr.splitlines() if line.startswith("- "))
    assert sentence.startswith(f"- {told}")


def test_periods_that_allow_a_second_start_are_refused(helm: Helm) -> None:
    answer = helm.run("template", "dbtrun", str(CHART), "--set=settings.submitWindowSeconds=91")
    assert answer.returncode == 1
    assert "settings.quietPeriodSeconds must be at least settings.requestSeconds and" in answer.stderr


def paths(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, child in schema.get("properties", {}).items():
        if "properties" in child and path + name != "resources":
            yield from paths(child, f"{path}{name}.")
        else:
            yield path + name


def leaves(values: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict) and value and path + name != "resources":
            yield from leaves(value, f"{path}{name}.")
        else:
            yield path + name


def test_values_and_schema_name_the_same_values(values: dict[str, Any]) -> None:
    assert set(leaves(values)) == set(paths(SCHEMA)) - HELM_ONLY


def test_every_value_is_explained(values: dict[str, Any]) -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    explained = {
        match[1]
        for above, line in pairwise(lines)
        if above.lstrip().startswith("#") and (match := re.match(r"\s*(\w+):", line))
    }
    assert [path for path in leaves(values) if path.rpartition(".")[2] not in explained] == []


def test_the_watcher_serves_its_own_namespace_by_default(helm: Helm) -> None:
    env = env_of(helm.deployment())
    assert "POD_NAMESPACE" in env
    assert {"DBTRUN_NAMESPACES", "DBTRUN_CONNECTION_NAMESPACES"}.isdisjoint(env)


def test_every_setting_is_an_environment_variable_of_its_name(helm: Helm) -> None:
    env = env_of(helm.deployment(f"--values={VALUES / 'everything.yaml'}"))
    assert env == {
        "POD_NAMESPACE": None,
        "DBTRUN_NAMESPACES": "dbtrun-system,team-a",
        "DBTRUN_LISTEN": "0.0.0.0:9090",
        "DBTRUN_CONNECTION_DIR": "/etc/dbtrun/connection",
        "DBTRUN_CONNECTION_NAMESPACES": "dbtrun-system,team-a",
        "DBTRUN_REQUESTS_PER_MINUTE": "300",
        "DBTRUN_FEED_INTERVAL_SECONDS": "10",
        "DBTRUN_REQUEST_SECONDS": "20",
        "DBTRUN_SUBMIT_WINDOW_SECONDS": "20",
        "DBTRUN_QUIET_PERIOD_SECONDS": "60",
        "DBTRUN_LEASE_SECONDS": "30",
        "DBTRUN_LEASE_NAME": "dbt-watcher",
        "DBTRUN_LOG_LEVEL": "debug",
        "DBTRUN_LOG_FORMAT": "text",
        "HTTPS_PROXY": "http://proxy.example.com:3128",
    }


def test_settings_and_their_defaults_are_the_watchers_own(values: dict[str, Any]) -> None:
    offered = {name: default for name, _doc, default in described() if name not in CHOSEN_BY_THE_CHART}
    assert {snake_case(name): value for name, value in values["settings"].items()} == offered


def test_the_default_connection_can_be_offered_to_every_namespace(helm: Helm) -> None:
    assert env_of(helm.deployment("--set=connection.namespaces={*,team-a}"))["DBTRUN_CONNECTION_NAMESPACES"] == "*"


def test_the_watcher_of_a_whole_cluster_is_told_so(helm: Helm) -> None:
    assert env_of(helm.deployment("--set=watchAllNamespaces=true"))["DBTRUN_NAMESPACES"] == "*"


@pytest.mark.parametrize("name", ["n", "no", "on", "123", "1e3", "null"])
def test_a_name_that_yaml_reads_as_something_else_stays_a_name(helm: Helm, name: str) -> None:
    everywhere = {
        "watchNamespaces": [name],
        "secretNamespaces": [name],
        "connection": {"existingSecret": name},
        "priorityClassName": name,
        "imagePullSecrets": [{"name": name}],
        "serviceAccount": {"name": name},
        "airflow": {"serviceAccounts": [{"name": name, "namespace": name}], "namespaces": [name]},
    }
    for mode in ("deployment", "sidecar"):
        values = json.dumps(everywhere | {"mode": mode, "fullnameOverride": name})
        text = helm.run("template", name, str(CHART), f"--namespace={name}", "--values=-", input=values)
        assert text.returncode == 0, text.stderr
        found = [each for each in strings_of(list(yaml.safe_load_all(text.stdout))) if not isinstance(each[1], str)]
        assert found == []


def strings_of(tree: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """What must be text: names, namespaces and labels of the objects, and whatever refers to one."""
    items = tree.items() if isinstance(tree, dict) else ((key, each) for each in tree) if isinstance(tree, list) else ()
    for below, value in items:
        if isinstance(value, dict | list):
            yield from strings_of(value, below)
        elif re.search(r"(name|namespace|instance|value)s?$", below, re.IGNORECASE):
            yield below, value


def test_without_a_default_connection_nothing_is_mounted(helm: Helm) -> None:
    deployment = helm.deployment("--set=connection.existingSecret=")
    assert "volumes" not in deployment["spec"]["template"]["spec"]
    assert "DBTRUN_CONNECTION_DIR" not in env_of(deployment)


def test_by_default_no_right_on_dbtruns_reaches_beyond_the_namespaces(helm: Helm) -> None:
    assert {each["kind"] for each in helm.objects()}.isdisjoint({"ClusterRoleBinding"})


def test_the_crd_can_be_left_to_somebody_else(helm: Helm) -> None:
    kinds = [each["kind"] for each in helm.objects("--set=crds.enabled=false")]
    assert "CustomResourceDefinition" not in kinds


def test_two_releases_share_no_name_outside_their_namespaces(helm: Helm) -> None:
    one = helm.objects("--set=crds.enabled=false,watchAllNamespaces=true")
    other = helm.objects("--set=crds.enabled=false,watchAllNamespaces=true", "--namespace=elsewhere")

    def names(objects: list[dict[str, Any]]) -> set[tuple[str, str]]:
        return {(each["kind"], each["metadata"]["name"]) for each in objects if each["kind"].startswith("Cluster")}

    assert len(names(one)) == 4
    assert names(one).isdisjoint(names(other))
