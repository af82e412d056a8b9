"""Mode sidecar: what the chart installs without a pod, and the values that put the watcher into Airflow's pod."""

from __future__ import annotations

import base64
import json
from typing import Any, Final

import pytest
import yaml

from deploy import render
from tests.chart.helm import ROOT, VALUES, Helm
from tests.controlplane import ControlPlane

SIDECAR: Final = "--set=mode=sidecar"
TOKEN_PATH: Final = "/var/run/secrets/kubernetes.io/serviceaccount"


def airflow() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((ROOT / render.AIRFLOW).read_text())["triggerer"]
    return values


def triggerer(values: dict[str, Any], namespace: str) -> dict[str, Any]:
    """A pod as Airflow's chart makes it of the values: with the triggerer's own container, of its own account."""
    plain = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    main = {"name": "triggerer", "image": "apache/airflow:3.3.2", "securityContext": plain}
    spec = {
        "serviceAccountName": "default",
        "securityContext": values["securityContexts"]["pod"],
        "initContainers": values["extraInitContainers"],
        "containers": [main],
        "volumes": values["extraVolumes"],
        "terminationGracePeriodSeconds": values["terminationGracePeriodSeconds"],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "airflow", "namespace": namespace}, "spec": spec}


def test_there_is_everything_but_a_pod(helm: Helm) -> None:
    def names(*args: str) -> set[tuple[str, str]]:
        return {(each["kind"], each["metadata"]["name"]) for each in helm.objects(*args)}

    of_pods = {("Deployment", "dbtrun"), ("Service", "dbtrun"), ("Pod", "dbtrun-test-ready")}
    assert names(SIDECAR) == names() - of_pods | {("Secret", "dbtrun-token")}


def test_the_sidecar_is_the_deployments_container(helm: Helm) -> None:
    pod = helm.deployment()["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (sidecar,) = airflow()["extraInitContainers"]
    user = {"runAsNonRoot": True, "runAsUser": 65532, "runAsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    changed = {
        "name": "dbtrun-watcher",
        "restartPolicy": "Always",
        "livenessProbe": container["livenessProbe"] | {"terminationGracePeriodSeconds": 30},
        "securityContext": user | container["securityContext"],
        "volumeMounts": [
            {"name": "dbtrun-token", "mountPath": TOKEN_PATH, "readOnly": True},
            *container.get("volumeMounts", []),
        ],
    }
    assert sidecar == {key: value for key, value in container.items() if key != "readinessProbe"} | changed
    assert airflow()["extraVolumes"][1:] == pod.get("volumes", [])


def test_a_watcher_that_cannot_work_stops_neither_the_start_nor_the_service_of_the_triggerer() -> None:
    (sidecar,) = airflow()["extraInitContainers"]
    assert {"startupProbe", "readinessProbe", "lifecycle"}.isdisjoint(sidecar)
    assert all(volume["secret"]["optional"] for volume in airflow()["extraVolumes"])


def test_airflows_chart_finds_nothing_to_expand_in_the_values() -> None:
    assert "{{" not in (ROOT / render.AIRFLOW).read_text()


def test_no_volume_takes_the_place_of_the_pods_own_token() -> None:
    assert not [each for each in airflow()["extraVolumes"] if each["name"].startswith("kube-api-access-")]


def test_the_triggerers_pod_is_admitted_where_only_restricted_pods_are(cluster: ControlPlane) -> None:
    pod = triggerer(airflow(), "team-b")
    answer = cluster.kubectl_sync("create", "--dry-run=server", "-f-", "-ojson", input=json.dumps(pod))
    stored = json.loads(answer.stdout)["spec"]
    (main,) = stored["containers"]
    (sidecar,) = stored["initContainers"]
    (own,) = (mount["name"] for mount in main["volumeMounts"] if mount["mountPath"] == TOKEN_PATH)
    assert own.startswith("kube-api-access-")
    assert [each["name"] for each in main["volumeMounts"]] == [own]
    assert own not in [mount["name"] for mount in sidecar["volumeMounts"]]


def test_kubernetes_fills_in_the_watchers_token(helm: Helm, bare_plane: ControlPlane) -> None:
    bare_plane.create_namespace_sync("dbtrun-system")
    notes = helm.install(bare_plane, SIDECAR)
    assert "--values deploy/airflow/values.yaml" in notes
    where = ("--namespace=dbtrun-system",)
    bare_plane.kubectl_sync("wait", *where, "secret/dbtrun-token", "--for=jsonpath={.data.token}", "--timeout=120s")
    secret = json.loads(bare_plane.kubectl_sync("get", *where, "secret/dbtrun-token", "-ojson").stdout)["data"]
    assert secret.keys() == {"ca.crt", "namespace", "token"}
    token = base64.b64decode(secret["token"]).decode()
    mine = (f"--token={token}", f"--server={bare_plane.server}", f"--certificate-authority={bare_plane.ca}")
    asked = ("auth", "can-i", "patch", "dbtruns.dbtrun.dev/status", *where, "--kubeconfig=/dev/null")
    assert bare_plane.kubectl_sync(*asked, *mine).stdout.strip() == "yes"
    helm.run("upgrade", "dbtrun", str(render.CHART), *where, "--reuse-values", plane=bare_plane)
    kept = json.loads(bare_plane.kubectl_sync("get", *where, "secret/dbtrun-token", "-ojson").stdout)["data"]
    assert kept == secret


@pytest.mark.parametrize("fullname", ["dbtrun", "dbt-watcher"])
def test_the_notes_name_what_differs_in_the_values(helm: Helm, fullname: str) -> None:
    text = helm.notes(SIDECAR, f"--set=fullnameOverride={fullname}")
    assert ("replace the Secret name dbtrun-token by dbt-watcher-token" in text) == (fullname != "dbtrun")


def test_a_bad_mode_is_refused(helm: Helm) -> None:
    answer = helm.run("template", "dbtrun", str(render.CHART), "--set=mode=daemonset")
    assert "at '/mode': value must be one of 'deployment', 'sidecar'" in answer.stderr


def test_settings_of_the_deployment_reach_the_sidecar(helm: Helm) -> None:
    text = render.airflow_values(helm.template(f"--values={VALUES / 'everything.yaml'}"))
    (sidecar,) = yaml.safe_load(text)["triggerer"]["extraInitContainers"]
    assert {"name": "DBTRUN_LEASE_NAME", "value": "dbt-watcher"} in sidecar["env"]
