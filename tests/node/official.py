"""What Airflow's official chart makes of deploy/airflow/values.yaml for the pod of the triggerer.

Only what that file touches: where init containers and volumes go, which security contexts and which grace period count.
So what these tests run is what users copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

VALUES: Final = Path(__file__).parents[2] / "deploy/airflow/values.yaml"
Json = dict[str, Any]

CONTAINER_SECURITY: Final[Json] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
"""The chart's default for its own containers."""
POD_SECURITY: Final[Json] = {"runAsUser": 50000, "fsGroup": 0}
"""The chart's default for its pods."""
GRACE_SECONDS: Final = 60
"""The chart's default for the triggerer."""


def values(**settings: str) -> Json:
    """The values that users copy, with other settings of the watcher: DBTRUN_* variables."""
    loaded: Json = yaml.safe_load(VALUES.read_text())
    (sidecar,) = loaded["triggerer"]["extraInitContainers"]
    for variable in sidecar["env"]:
        if variable["name"] in settings:
            variable["value"] = settings.pop(variable["name"])
    assert not settings, f"not among the sidecar's variables: {settings}"
    return loaded


def pod_security(chosen: Mapping[str, Any], part: str) -> Json:
    """The first that is there counts: they are never merged."""
    own = chosen.get(part, {}).get("securityContexts", {}).get("pod")
    return dict(own or chosen.get("securityContexts", {}).get("pod") or POD_SECURITY)


def triggerer(
    chosen: Mapping[str, Any],
    account: str,
    container: Mapping[str, Any],
    *,
    init: Sequence[Mapping[str, Any]] = (),
    volumes: Sequence[Mapping[str, Any]] = (),
    replicas: int = 1,
) -> Json:
    """The StatefulSet of the triggerer.

    Args:
        chosen: the chart's values.
        account: the ServiceAccount of the pod.
        container: the triggerer itself: its image, its command and what the chart gives it besides.
        init: what the chart starts before the values' own init containers.
        volumes: the chart's own.
        replicas: how many pods.
    """
    part = chosen["triggerer"]
    labels = {"component": "triggerer"}
    spec = {
        "serviceAccountName": account,
        "terminationGracePeriodSeconds": part.get("terminationGracePeriodSeconds", GRACE_SECONDS),
        "securityContext": pod_security(chosen, "triggerer"),
        "initContainers": [*init, *part["extraInitContainers"]],
        "containers": [{"name": "triggerer", "securityContext": CONTAINER_SECURITY, **container}],
        "volumes": [*volumes, *part.get("extraVolumes", [])],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "airflow-triggerer", "labels": labels},
        "spec": {
            "replicas": replicas,
            "serviceName": "airflow-triggerer",
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }
