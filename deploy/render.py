#!/usr/bin/env python
"""Renders the plain manifests from the chart, so that manifests are written by hand in one place only.

python -m deploy.render           write them
python -m deploy.render --check   exit 1 and name those that differ
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
import textwrap
from pathlib import Path
from typing import Any, Final

import yaml

from deploy import grafana
from tests.controlplane import helm_path

ROOT: Final = Path(__file__).resolve().parent.parent
CHART: Final = ROOT / "helm/dbtrun"
NAMESPACE: Final = "dbtrun-system"
CRDS: Final = {"dbtruns": "templates/crd.yaml", "dbtrunmirrors": "templates/crd-mirrors.yaml"}
AIRFLOW: Final = "deploy/airflow/values.yaml"
ROLES: Final = "templates/roles-for-people.yaml"
OVERLAYS: Final[dict[str, tuple[str, ...]]] = {
    "cluster-wide": ("--namespace", NAMESPACE),
    "high-availability": ("--namespace", NAMESPACE),
    "namespace-admins": ("--namespace", NAMESPACE, "--show-only", ROLES),
    "sidecar": ("--namespace", "airflow"),
}
"""Folders of deploy/overlays, each with the values of its manifest, to further arguments."""

MANIFESTS: Final[dict[str, tuple[str, ...]]] = (
    {
        f"deploy/crd/dbtrun.dev_{plural}.yaml": (
            *("--namespace", NAMESPACE, "--show-only", template, "--set", "crds.keep=false"),
        )
        for plural, template in CRDS.items()
    }
    | {
        "deploy/manifests/dbtrun.yaml": ("--namespace", NAMESPACE, "--set", "crds.enabled=false"),
    }
    | {
        f"deploy/overlays/{name}/dbtrun.yaml": (
            *("--set", "crds.enabled=false", "--values", str(ROOT / f"deploy/overlays/{name}/values.yaml")),
            *arguments,
        )
        for name, arguments in OVERLAYS.items()
    }
)
"""File to the arguments of `helm template` that make it. The CRD has its own: it is applied first and kept last."""

ALERTS: Final = "deploy/alerts/dbtrun.yaml"
DASHBOARDS: Final = ("deploy/dashboards", "helm/dbtrun/files/dashboards")
"""The dashboards are in the chart and beside it: a ConfigMap, and files to import."""

AIRFLOW_FRAME: Final = """\
# Values for the official Apache Airflow Helm chart: they run the watcher as a native sidecar of the triggerer.
# docs/sidecar.md explains them. Replace the image by yours. Helm does not merge lists: if your values already have
# extraInitContainers or extraVolumes, add these entries to yours.
# `python -m deploy.render` generates this file from the Deployment of the chart dbtrun.
triggerer:
  extraInitContainers:
{container}
  # The mounts are in the entry above: extraVolumeMounts would mount the token into the triggerer's container as well.
  extraVolumes:
{volumes}
  # Seconds for the triggerer to end, and for the watcher after it. The watcher needs up to 25 of them.
  terminationGracePeriodSeconds: 120
  # Never scale to zero: without a triggerer there is no watcher.
  keda:
    minReplicaCount: 1
  # The restricted Pod Security Standard requires these in addition to the defaults of Airflow's chart. They replace
  # securityContexts that you set at another level; Airflow's chart does not merge the two.
  securityContexts:
    pod:
      runAsUser: 50000
      fsGroup: 0
      runAsNonRoot: true
      seccompProfile:
        type: RuntimeDefault
"""
IDENTITY: Final = "dbtrun-token"
"""Not kube-api-access-*: Kubernetes would take it for the pod's own token and mount it into every container."""
SERVICE_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"


def rendered(chart: Path = CHART) -> dict[str, str]:
    """The content of every file, by path from the root of the repository."""
    manifests = {file: _template(chart, arguments) for file, arguments in MANIFESTS.items()}
    return (
        manifests
        | {AIRFLOW: airflow_values(manifests["deploy/manifests/dbtrun.yaml"])}
        | {ALERTS: (chart / "files/alerts.yaml").read_text()}
        | {f"{folder}/{name}.json": text for folder in DASHBOARDS for name, text in grafana.rendered().items()}
    )


def stale(chart: Path = CHART) -> list[str]:
    """The files that are not as the chart would render them now."""
    return [file for file, text in rendered(chart).items() if not _same(ROOT / file, text)]


def airflow_values(manifest: str) -> str:
    """The values for Airflow's chart, from the Deployment in a manifest."""
    (deployment,) = (
        each for each in yaml.load_all(manifest, yaml.CSafeLoader) if each and each["kind"] == "Deployment"
    )
    pod = deployment["spec"]["template"]["spec"]
    token = {
        "name": IDENTITY,
        # Readable by any user: which group a pod's files have is decided by Airflow's values. Optional: without the
        # Secret the watcher waits, and the triggerer runs.
        "secret": {"secretName": f"{deployment['metadata']['name']}-token", "defaultMode": 0o444, "optional": True},
    }
    return AIRFLOW_FRAME.format(
        container=_listed([sidecar(pod)]),
        volumes=_listed([token, *pod.get("volumes", ())]),
    )


def sidecar(pod: dict[str, Any]) -> dict[str, Any]:
    """A Deployment's pod as one native sidecar of another pod: an init container that goes on.

    It keeps the user that the pod gave it, and brings its own identity. It has no readiness probe, since that would
    count for the whole pod: a watcher that cannot work must not take the triggerer out of service.
    """
    container = pod["containers"][0]
    kept = {key: value for key, value in container.items() if key not in ("name", "readinessProbe", "volumeMounts")}
    # A watcher that hangs does not hear that it should end: it need not have as long as the triggerer.
    probe = container["livenessProbe"] | {"terminationGracePeriodSeconds": pod["terminationGracePeriodSeconds"]}
    user = {key: value for key, value in pod.get("securityContext", {}).items() if key != "fsGroup"}
    own = {"name": IDENTITY, "mountPath": SERVICE_ACCOUNT, "readOnly": True}
    return {
        "name": "dbtrun-watcher",
        "restartPolicy": "Always",
        **kept,
        "livenessProbe": probe,
        "securityContext": user | container.get("securityContext", {}),
        "volumeMounts": [own, *container.get("volumeMounts", ())],
    }


def _listed(items: list[dict[str, Any]]) -> str:
    text = yaml.safe_dump(items, sort_keys=False, width=120)
    octal = re.sub(r"(?<=defaultMode: )\d+", lambda mode: f"0{int(mode[0]):o}", text)
    return textwrap.indent(octal, " " * 4).rstrip()


def _same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


def _template(chart: Path, arguments: tuple[str, ...]) -> str:
    with tempfile.TemporaryDirectory() as home:
        answer = subprocess.run(  # noqa: S603 - our own helm, our own arguments
            [helm_path(), "template", "dbtrun", chart, "--skip-tests", *arguments],
            env={"HOME": home},
            capture_output=True,
            text=True,
            check=False,
        )
    if answer.returncode:
        raise SystemExit(answer.stderr.strip())
    return _without_helm(answer.stdout)


def _without_helm(text: str) -> str:
    """No trace of a tool that does not manage these objects."""
    marks = ("helm.sh/chart:", "app.kubernetes.io/managed-by:", "# Source:")
    return "".join(line for line in text.splitlines(keepends=True) if not line.lstrip().startswith(marks))


def main() -> None:
    """Writes the files, or compares them with `--check`."""
    parser = argparse.ArgumentParser(prog="python -m deploy.render", description="Render deploy/ from the chart.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file is out of date")
    if not parser.parse_args().check:
        for file, text in rendered().items():
            (ROOT / file).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / file).write_text(text)
    elif differing := stale():
        raise SystemExit(f"not as the chart renders them: {', '.join(differing)}; run `python -m deploy.render`")


if __name__ == "__main__":
    main()
