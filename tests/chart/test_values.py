"""What the chart makes of its values, without a cluster."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from docs import chart
from tests.chart.helm import CHART, VALUES, Helm, documents, env_of
from watcher.settings import described

SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
CHOSEN_BY_THE_CHART = {
    "namespaces",
    "connection_secret",
    "connection_dir",
    "connection_namespaces",
    "connection_projects",
    "listen",
    "kubeconfig",
    "context",
}
CHOSEN_BY_THE_CHART |= {"leader_election", "lease_name", "webhooks_listen"}


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
        ("settings.connectionHosts=", "at '/settings/connectionHosts'"),
        ("settings.requestsPerMinute=9000", "at '/settings/requestsPerMinute': maximum: got 9,000, want 5,000"),
        ("settings.logFormat=xml", "at '/settings/logFormat': value must be one of 'json', 'text'"),
        ("replicas=11", "at '/replicas': maximum: got 11, want 10"),
        ("connection.projects.team-a={x}", "at '/connection/projects/team-a/0': got string, want integer"),
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


def schema_paths(schema: dict[str, Any], above: str = "") -> Iterator[str]:
    for name, child in schema.get("properties", {}).items():
        if chart.closed(child):
            yield from schema_paths(child, f"{above}{name}.")
        else:
            yield above + name


def test_values_and_schema_name_the_same_values() -> None:
    assert [each.path for each in chart.values()] == list(schema_paths(SCHEMA))


def test_every_value_is_explained() -> None:
    assert [each.path for each in chart.values() if not each.text] == []


def without(values: dict[str, Any], path: str) -> dict[str, Any]:
    first, _, rest = path.partition(".")
    if not rest:
        return {name: value for name, value in values.items() if name != first}
    return values | {first: without(values.get(first, {}), rest)}


def nested(path: str, value: Any) -> dict[str, Any]:
    for name in reversed(path.split(".")):
        value = {name: value}
    return dict(value)


EVERYTHING: Final[dict[str, Any]] = yaml.load((VALUES / "everything.yaml").read_text(), yaml.CSafeLoader)
OTHERWISE: Final[dict[str, Any]] = {
    "mode": "sidecar",
    "crds.keep": False,
    "watchAllNamespaces": True,
    "artifacts.enabled": False,
    "caBundle.secret": "company-ca",
    "caBundle.key": "bundle.pem",
    "image.tag": "1.2.3",
    "serviceAccount.create": False,
    "rbac.create": False,
    "rbac.aggregate": False,
    "rbac.releaseDeleted": False,
    "rbac.delegate": True,
    "rbac.existingClusterRole": "watchers",
    "service.enabled": False,
    "monitor.enabled": True,
    "monitor.kind": "ServiceMonitor",
    "monitor.labels": {"release": "prometheus"},
    "monitor.interval": "30s",
    "monitor.scrapeTimeout": "10s",
    "monitor.honorLabels": False,
    "monitor.metricRelabelings": [{"action": "labeldrop", "regex": "pod"}],
    "alerts.enabled": True,
    "alerts.labels": {"release": "prometheus"},
    "alerts.alertLabels": {"team": "data"},
    "alerts.disabled": ["DbtRunLate"],
    "alerts.runbookUrl": "https://docs.example.com/monitoring/",
    "dashboards.enabled": True,
    "dashboards.labels": {"grafana_dashboard": "yes"},
    "dashboards.annotations": {"grafana_folder": "data"},
    "dashboards.namespace": "grafana",
}
"""What the file of everything leaves alone, each with a value that is not its default."""
CONTEXT: Final[dict[str, dict[str, Any]]] = {
    "image.registry": {"global": {"imageRegistry": ""}},
    "image.tag": {"image": {"digest": ""}},
    "crds.keep": {"crds": {"enabled": True}},
    "caBundle.secret": {"caBundle": {"configMap": ""}},
    "mode": {"webhooks": {"enabled": False}},
}
"""What must be set besides everything for a value to matter. Those of a part in OPTIONAL need that part."""
OPTIONAL: Final = ("monitor", "alerts", "dashboards")


@pytest.fixture(scope="module")
def rendered(helm: Helm) -> Callable[..., str]:
    """Renders layers of values, each once."""
    known: dict[str, str] = {}

    def render(*layers: dict[str, Any]) -> str:
        key = json.dumps(layers)
        if key not in known:
            known[key] = helm.template(*(f"--values={file}" for file in helm.files(*layers)))
        return known[key]

    return render


@pytest.mark.parametrize("path", [each.path for each in chart.values() if each.path != "enabled"])
def test_every_value_has_an_effect(rendered: Callable[..., str], path: str) -> None:
    part, _, value = path.partition(".")
    context = {part: {"enabled": True}} if part in OPTIONAL and value != "enabled" else CONTEXT.get(path, {})
    if path in OTHERWISE:
        changed = rendered(EVERYTHING, context, nested(path, OTHERWISE[path]))
    else:
        changed = rendered(without(EVERYTHING, path), context)
    assert changed != rendered(EVERYTHING, context)


def test_a_parent_chart_turns_it_off_and_chooses_the_registry(helm: Helm, tmp_path: Path) -> None:
    parent = tmp_path / "platform"
    shutil.copytree(CHART, parent / "charts/dbtrun")
    dependency = {"name": "dbtrun", "version": "0.1.0", "condition": "dbtrun.enabled"}
    about = {"apiVersion": "v2", "name": "platform", "version": "1.0.0", "dependencies": [dependency]}
    (parent / "Chart.yaml").write_text(yaml.safe_dump(about))

    def rendered(*args: str) -> list[dict[str, Any]]:
        answer = helm.run("template", "platform", str(parent), *args)
        assert answer.returncode == 0, answer.stderr
        return documents(answer.stdout)

    assert rendered("--set=dbtrun.enabled=false") == []
    pod = only(rendered("--set=global.imageRegistry=r.example.com"), "Deployment")["spec"]["template"]["spec"]
    assert pod["containers"][0]["image"] == "r.example.com/dbtrun/watcher:0.1.0"


def test_the_placeholder_for_parent_charts_is_accepted(helm: Helm) -> None:
    assert helm.template("--set=enabled=true") == helm.template()


def test_the_watcher_serves_its_own_namespace_by_default(helm: Helm) -> None:
    env = env_of(helm.deployment())
    assert "POD_NAMESPACE" in env
    assert {"DBTRUN_NAMESPACES", "DBTRUN_CONNECTION_NAMESPACES"}.isdisjoint(env)


def test_every_setting_is_an_environment_variable_of_its_name(helm: Helm) -> None:
    env = env_of(helm.deployment(f"--values={VALUES / 'everything.yaml'}"))
    assert env == {
        "POD_NAMESPACE": None,
        "POD_NAME": None,
        "DBTRUN_NAMESPACES": "dbtrun-system,team-a",
        "DBTRUN_LISTEN": ":9090",
        "DBTRUN_WEBHOOKS_LISTEN": ":9091",
        "POD_IP": None,
        "DBTRUN_CONNECTION_SECRET": "prod",
        "DBTRUN_CONNECTION_NAMESPACES": "dbtrun-system,team-a",
        "DBTRUN_CONNECTION_PROJECTS": "*=,team-a=101+70403103937001",
        "DBTRUN_REQUESTS_PER_MINUTE": "300",
        "DBTRUN_FEED_INTERVAL_SECONDS": "10",
        "DBTRUN_CONNECTION_HOSTS": "corp.example",
        "DBTRUN_LOOPBACK_CONNECTIONS": "true",
        "DBTRUN_TRACING": "true",
        "DBTRUN_REQUEST_SECONDS": "20",
        "DBTRUN_SUBMIT_WINDOW_SECONDS": "20",
        "DBTRUN_QUIET_PERIOD_SECONDS": "60",
        "DBTRUN_LEASE_SECONDS": "30",
        "DBTRUN_NAMESPACE_WEIGHTS": "team-a=3",
        "DBTRUN_LEASE_NAME": "dbt-watcher",
        "DBTRUN_LOG_LEVEL": "debug",
        "DBTRUN_LOG_FORMAT": "text",
        "HTTPS_PROXY": "http://proxy.example.com:3128",
        "NO_PROXY": "emea.dbt.com",
        "SSL_CERT_FILE": "/etc/dbtrun/ca/ca.crt",
        "TZ": "UTC",
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
        found = [each for each in strings_of(documents(text.stdout)) if not isinstance(each[1], str)]
        assert found == []


def strings_of(tree: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """What must be text: names, namespaces and labels of the objects, and whatever refers to one."""
    items = tree.items() if isinstance(tree, dict) else ((key, each) for each in tree) if isinstance(tree, list) else ()
    for below, value in items:
        if isinstance(value, dict | list):
            yield from strings_of(value, below)
        elif re.search(r"(name|namespace|instance|value)s?$", below, re.IGNORECASE):
            yield below, value


def test_without_a_default_connection_there_is_no_right_to_one(helm: Helm) -> None:
    none = ("--set=connection.existingSecret=", "--set=watchNamespaces={team-a}")
    assert "DBTRUN_CONNECTION_SECRET" not in env_of(helm.deployment(*none))
    assert "dbtrun-default-connection" not in [each["metadata"]["name"] for each in helm.objects(*none)]


def test_no_secret_is_mounted(helm: Helm) -> None:
    assert "volumes" not in helm.deployment()["spec"]["template"]["spec"]


def test_by_default_no_right_on_dbtruns_reaches_beyond_the_namespaces(helm: Helm) -> None:
    bound = [each for each in helm.objects() if each["kind"] == "ClusterRoleBinding"]
    assert [each["roleRef"]["name"] for each in bound] == ["dbtrun-system:dbtrun:deletions"]
    (role,) = [each for each in helm.objects() if each["metadata"]["name"] == "dbtrun-system:dbtrun:deletions"][:1]
    assert role["rules"] == [{"apiGroups": ["dbtrun.dev"], "resources": ["dbtruns"], "verbs": ["get", "list", "patch"]}]
    without = helm.objects("--set=rbac.releaseDeleted=false")
    assert "ClusterRoleBinding" not in [each["kind"] for each in without]


@pytest.mark.parametrize("setting", ["watchAllNamespaces=true", "rbac.existingClusterRole=a", "rbac.create=false"])
def test_the_right_to_release_deleted_runs_is_not_given_twice_or_against_ones_will(helm: Helm, setting: str) -> None:
    names = [each["metadata"]["name"] for each in helm.objects(f"--set={setting}")]
    assert "dbtrun-system:dbtrun:deletions" not in names


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


def contexts(tree: Any) -> list[Any]:
    below = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ()
    own = [tree["securityContext"]] if isinstance(tree, dict) and "securityContext" in tree else []
    return own + [each for child in below for each in contexts(child)]


def test_a_platform_may_choose_the_user(helm: Helm) -> None:
    none = ("--set=podSecurityContext=null", "--set=securityContext=null")
    assert contexts(helm.objects(*none)) == []
    assert len(contexts(helm.objects())) == 4, "of the pod, of the test's pod, and of their containers"
    left = helm.deployment("--set=podSecurityContext.runAsUser=null,podSecurityContext.runAsGroup=null")
    assert left["spec"]["template"]["spec"]["securityContext"].keys() == {"fsGroup", "runAsNonRoot", "seccompProfile"}


@pytest.mark.parametrize(
    ("values", "image"),
    [
        ("image.tag=", "dbtrun/watcher:0.1.0"),
        ("image.tag=2.0", "dbtrun/watcher:2.0"),
        ("image.registry=r.example.com", "r.example.com/dbtrun/watcher:0.1.0"),
        ("image.registry=r.example.com,global.imageRegistry=g.example.com", "g.example.com/dbtrun/watcher:0.1.0"),
        (f"image.digest=sha256:{'a' * 64}", f"dbtrun/watcher@sha256:{'a' * 64}"),
        ("global=null", "dbtrun/watcher:0.1.0"),
    ],
)
def test_the_images_name(helm: Helm, values: str, image: str) -> None:
    assert helm.deployment(f"--set={values}")["spec"]["template"]["spec"]["containers"][0]["image"] == image


def test_no_label_of_a_user_replaces_one_that_selects_pods(helm: Helm) -> None:
    mine = "app\\.kubernetes\\.io/name"
    for where in ("commonLabels", "podLabels", "deploymentLabels"):
        deployment = helm.deployment(f"--set-string={where}.{mine}=mine")
        selector = deployment["spec"]["selector"]["matchLabels"]
        assert selector.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()


def test_common_labels_are_on_every_object(helm: Helm) -> None:
    lacking = [
        each for each in helm.objects("--set=commonLabels.team=data") if "team" not in each["metadata"]["labels"]
    ]
    assert lacking == []


def only(objects: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = (each for each in objects if each["kind"] == kind)
    return found


def test_what_selects_the_watchers_pods_does_not_select_the_tests(helm: Helm) -> None:
    objects = helm.objects("--set=networkPolicy.enabled=true,podDisruptionBudget.enabled=true,monitor.enabled=true")
    test = only(objects, "Pod")["metadata"]["labels"].items()
    pod = only(objects, "Deployment")["spec"]["template"]["metadata"]["labels"].items()
    selectors = [
        only(objects, "Service")["spec"]["selector"],
        only(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        only(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        only(objects, "PodMonitor")["spec"]["selector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= pod
        assert not selector.items() <= test


@pytest.mark.parametrize(
    ("kind", "endpoints"), [("PodMonitor", "podMetricsEndpoints"), ("ServiceMonitor", "endpoints")]
)
def test_prometheus_finds_the_metrics(helm: Helm, kind: str, endpoints: str) -> None:
    objects = helm.objects(f"--set=monitor.enabled=true,monitor.kind={kind},monitor.interval=30s")
    monitor = only(objects, kind)
    assert monitor["spec"][endpoints] == [{"port": "http", "path": "/metrics", "honorLabels": True, "interval": "30s"}]
    named = (
        only(objects, "Service")["spec"]["ports"],
        only(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["ports"],
    )
    assert all([port["name"] for port in ports] == ["http"] for ports in named)
    labels = (
        only(objects, "Service")["metadata"]["labels"]
        if kind == "ServiceMonitor"
        else monitor["spec"]["selector"]["matchLabels"]
    )
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            "monitor.enabled=true,monitor.kind=ServiceMonitor,service.enabled=false",
            "monitor.kind is ServiceMonitor, and service.enabled is false",
        ),
        ("caBundle.configMap=a,caBundle.secret=b", "caBundle.configMap and caBundle.secret are both set: choose one."),
        (
            "rbac.existingClusterRole=a,watchAllNamespaces=true",
            "rbac.existingClusterRole is bound in single namespaces",
        ),
        ("webhooks.enabled=true,webhooks.port=8080", "webhooks.port and port are the same"),
        ("webhooks.enabled=true,mode=sidecar", "webhooks.enabled needs mode deployment"),
    ],
)
def test_values_that_contradict_each_other_are_refused(helm: Helm, values: str, told: str) -> None:
    answer = helm.run("template", "dbtrun", str(CHART), f"--set={values}")
    assert answer.returncode == 1
    assert told in answer.stderr


def test_the_alerts_are_those_of_the_file(helm: Helm) -> None:
    rule = only(helm.objects("--set=alerts.enabled=true"), "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((CHART / "files/alerts.yaml").read_text())


def test_alerts_get_labels_and_a_runbook_and_can_be_left_out(helm: Helm) -> None:
    values: dict[str, Any] = {
        "enabled": True,
        "labels": {"release": "prometheus"},
        "alertLabels": {"team": "data", "severity": "page"},
        "disabled": ["DbtRunLate"],
        "runbookUrl": "https://docs.example.com/monitoring/",
    }
    (file,) = helm.files({"alerts": values})
    rule = only(helm.objects(f"--values={file}"), "PrometheusRule")
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    alerts = {alert["alert"]: alert for group in rule["spec"]["groups"] for alert in group["rules"]}
    assert len(alerts) == 9
    assert "DbtRunLate" not in alerts
    refused = alerts["DbtRunTokenRefused"]
    assert refused["labels"] == {"team": "data", "severity": "page"}
    assert refused["annotations"]["runbook_url"] == "https://docs.example.com/monitoring/#dbtruntokenrefused"


def test_grafanas_sidecar_finds_the_dashboards(helm: Helm) -> None:
    config = only(helm.objects("--set=dashboards.enabled=true"), "ConfigMap")
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert {name: json.loads(text)["title"] for name, text in config["data"].items()} == {
        "dbtrun-operator.json": "DbtRun: the watcher",
        "dbtrun-data-team.json": "DbtRun: jobs and runs",
    }


def test_alerts_and_dashboards_go_with_a_sidecar_too(helm: Helm) -> None:
    kinds = {each["kind"] for each in helm.objects("--set=mode=sidecar,alerts.enabled=true,dashboards.enabled=true")}
    assert {"PrometheusRule", "ConfigMap"} <= kinds


def test_webhooks_have_a_port_and_a_service_of_their_own(helm: Helm) -> None:
    assert "webhooks" not in {
        port["name"] for port in helm.deployment()["spec"]["template"]["spec"]["containers"][0]["ports"]
    }
    objects = helm.objects("--set=webhooks.enabled=true")
    services = {each["metadata"]["name"]: each["spec"] for each in objects if each["kind"] == "Service"}
    assert set(services) == {"dbtrun", "dbtrun-webhooks"}
    assert [port["targetPort"] for port in services["dbtrun-webhooks"]["ports"]] == ["webhooks"]
    assert [port["targetPort"] for port in services["dbtrun"]["ports"]] == ["http"]
    pod = only(objects, "Deployment")["spec"]["template"]
    assert {"name": "webhooks", "containerPort": 8081} in pod["spec"]["containers"][0]["ports"]
    assert services["dbtrun-webhooks"]["selector"].items() <= pod["metadata"]["labels"].items()


def test_a_network_policy_lets_a_standby_hand_webhooks_on(helm: Helm) -> None:
    ingress = "networkPolicy.webhooksFrom[0].namespaceSelector.matchLabels.name=ingress"
    on = f"--set=webhooks.enabled=true,networkPolicy.enabled=true,{ingress}"
    objects = helm.objects(on)
    policy = only(objects, "NetworkPolicy")["spec"]
    ours = {"podSelector": {"matchLabels": policy["podSelector"]["matchLabels"]}}
    (into,) = (rule for rule in policy["ingress"] if rule["ports"] == [{"port": "webhooks"}])
    assert into["from"] == [{"namespaceSelector": {"matchLabels": {"name": "ingress"}}}, ours]
    (out,) = (rule for rule in policy["egress"] if rule["ports"] == [{"port": "webhooks"}])
    assert out["to"] == [ours]


def test_objects_of_ones_own_may_use_templates(helm: Helm) -> None:
    objects = helm.objects(f"--values={VALUES / 'everything.yaml'}")
    names = [each["metadata"]["name"] for each in objects if each["kind"] == "ConfigMap"]
    assert names == ["dbt-watcher-more", "dbtrun-text"]


def test_the_right_to_keep_files_is_given_by_namespace(helm: Helm) -> None:
    def namespaces(*args: str) -> list[str]:
        """Where a Role, of the watcher or of Airflow, allows ConfigMaps."""
        account = "--set=airflow.serviceAccounts[0].name=a,airflow.serviceAccounts[0].namespace=b"
        roles = [each for each in helm.objects(account, *args) if each["kind"] in ("Role", "ClusterRole")]
        allowing = [each for each in roles if any("configmaps" in rule["resources"] for rule in each["rules"])]
        assert {each["kind"] for each in allowing} <= {"Role"}
        return sorted(each["metadata"]["namespace"] for each in allowing)

    assert namespaces() == ["dbtrun-system"] * 2
    assert namespaces("--set=artifacts.enabled=false") == []
    assert namespaces("--set=watchNamespaces={a,b},artifacts.namespaces={a}") == ["a"] * 2
    assert namespaces("--set=watchAllNamespaces=true") == []
    assert namespaces("--set=watchAllNamespaces=true,artifacts.namespaces={dbtrun-system}") == ["dbtrun-system"] * 2


def test_the_sidecar_mode_has_nothing_that_selects_pods(helm: Helm) -> None:
    on = "--set=mode=sidecar,networkPolicy.enabled=true,podDisruptionBudget.enabled=true,monitor.enabled=true"
    kinds = {each["kind"] for each in helm.objects(on)}
    assert kinds.isdisjoint({"Deployment", "Pod", "Service", "NetworkPolicy", "PodDisruptionBudget", "PodMonitor"})
