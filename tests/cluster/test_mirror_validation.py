"""What the API server itself refuses and keeps of a DbtRunMirror."""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from dbtrun.api import API_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.controlplane import Completed, ControlPlane

CRD: Final = Path(__file__).parents[2] / "deploy/crd/dbtrun.dev_dbtrunmirrors.yaml"
RUNS: Final = CRD.with_name("dbtrun.dev_dbtruns.yaml")
Fields = dict[str, Any]
ALL: Final[Fields] = {"select": {"allJobs": True}}
NEEDS_ONE: Final = (
    "spec.select needs jobIds, environmentIds, projectIds or causes; for every run of the account, set allJobs to true."
)
BAD_LABELS: Final = "spec.template.labels must be valid Kubernetes labels"

REFUSED: Final[list[tuple[Fields, str]]] = [
    ({}, "spec.select: Required value"),
    ({"select": {}}, NEEDS_ONE),
    ({"select": {"allJobs": False}}, NEEDS_ONE),
    ({"select": {"otherClusters": True}}, NEEDS_ONE),
    ({"select": {"allJobs": True, "jobIds": [1]}}, "spec.select.allJobs cannot be combined with spec.select.jobIds"),
    ({"select": {"jobIds": []}}, "spec.select.jobIds in body should have at least 1 items"),
    ({"select": {"jobIds": [0]}}, "spec.select.jobIds[0] in body should be greater than or equal to 1"),
    ({"select": {"jobIds": [5, 5]}}, "spec.select.jobIds[1]: Duplicate value: 5"),
    ({"select": {"causes": ["cron"]}}, 'Unsupported value: "cron"'),
    (ALL | {"appear": "Always"}, 'Unsupported value: "Always"'),
    (ALL | {"since": "yesterday"}, "spec.since in body must be of type date-time"),
    (ALL | {"maxPerMinute": 0}, "spec.maxPerMinute in body should be greater than or equal to 1"),
    (ALL | {"maxPerMinute": 1001}, "spec.maxPerMinute in body should be less than or equal to 1000"),
    (ALL | {"historyLimit": {"failed": -1}}, "spec.historyLimit.failed in body should be greater than or equal to 0"),
    (
        ALL | {"template": {"ttlSecondsAfterFinished": 5}},
        "spec.template.ttlSecondsAfterFinished in body should be greater than or equal to 60",
    ),
    (ALL | {"template": {"labels": {"dbtrun.dev/mirror": "x"}}}, "cannot contain the prefix dbtrun.dev/"),
    (ALL | {"template": {"labels": {"a b": "x"}}}, BAD_LABELS),
    (ALL | {"template": {"labels": {"team": "-x-"}}}, BAD_LABELS),
    (ALL | {"template": {"labels": {"a/b/c": "x"}}}, BAD_LABELS),
    (ALL | {"template": {"artifacts": ["../jobs"]}}, "must be a path below dbt's target directory"),
    (ALL | {"connectionRef": {"name": "My_Account"}}, "spec.connectionRef.name must be the name of a Secret"),
]
CHANGES: Final[list[tuple[Fields, str]]] = [
    ({"connectionRef": {"name": "other"}}, "spec.connectionRef"),
    ({"connectionRef": None}, "spec.connectionRef"),
    ({"appear": "Started"}, "spec.appear"),
    ({"since": "2026-02-01T00:00:00Z"}, "spec.since"),
    ({"since": None}, "spec.since"),
]
DEFAULTS: Final[Fields] = {
    "appear": "Finished",
    "historyLimit": {"failed": 50, "succeeded": 50},
    "maxPerMinute": 60,
    "select": {"allJobs": True, "otherClusters": False},
    "suspend": False,
    "template": {"ttlSecondsAfterFinished": 604800},
}


class Api:
    """kubectl in a namespace of its own."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self.plane, self.namespace = plane, namespace

    def kubectl(self, *args: str, text: str | None = None) -> Completed:
        return self.plane.kubectl_sync("-n", self.namespace, *args, input=text, check=False)

    def create(self, spec: Fields, name: str | None = None) -> tuple[str, Completed]:
        name = name or f"m-{secrets.token_hex(4)}"
        body = {"apiVersion": API_VERSION, "kind": "DbtRunMirror", "metadata": {"name": name}, "spec": spec}
        return name, self.kubectl("create", "-f", "-", text=json.dumps(body))


@pytest.fixture(scope="module")
def api(plane: ControlPlane) -> Iterator[Api]:
    name = f"mirrors-{secrets.token_hex(3)}"
    for crd in (CRD, RUNS):
        plane.kubectl_sync("apply", "--server-side", "-f", str(crd))
        plane.kubectl_sync("wait", "--for=condition=Established", "-f", str(crd), "--timeout=60s")
    plane.kubectl_sync("create", "namespace", name)
    yield Api(plane, name)
    plane.kubectl_sync("delete", "namespace", name, "--wait=false")


@pytest.mark.parametrize(("spec", "told"), REFUSED)
def test_what_is_wrong_is_told(api: Api, spec: Fields, told: str) -> None:
    _, answer = api.create(spec)
    assert told in answer.stderr


def test_a_name_is_short_enough_for_a_label(api: Api) -> None:
    assert "metadata.name can have at most 63 characters" in api.create(ALL, "m" * 64)[1].stderr
    assert api.create(ALL, "m" * 63)[1].stderr == ""


def test_what_is_stored_has_the_defaults(api: Api) -> None:
    name, _ = api.create(ALL)
    assert json.loads(api.kubectl("get", "drm", name, "-ojson").stdout)["spec"] == DEFAULTS


@pytest.fixture(scope="module")
def full(api: Api) -> str:
    spec = ALL | {"connectionRef": {"name": "prod"}, "since": "2026-01-01T00:00:00Z"}
    return api.create(spec)[0]


@pytest.mark.parametrize(("change", "field"), CHANGES)
def test_what_cannot_be_changed(api: Api, full: str, change: Fields, field: str) -> None:
    answer = api.kubectl("patch", "drm", full, "--type=merge", "-p", json.dumps({"spec": change}))
    assert f"{field} cannot be changed: create a new DbtRunMirror." in answer.stderr


def test_the_rest_can_be_changed(api: Api) -> None:
    name, _ = api.create(ALL)
    change = {"suspend": True, "maxPerMinute": 5, "historyLimit": {"failed": 0}, "select": {"causes": ["ci"]}}
    assert api.kubectl("patch", "drm", name, "--type=merge", "-p", json.dumps({"spec": change})).stderr == ""


def test_kubectl_get_shows_how_far_a_mirror_is(api: Api) -> None:
    name, _ = api.create(ALL)
    condition = {"reason": "Told", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    status = {
        "lagSeconds": 42,
        "conditions": [
            condition | {"type": kind, "status": said} for kind, said in (("Ready", "True"), ("CaughtUp", "False"))
        ],
    }
    patch = json.dumps({"status": status})
    assert not api.kubectl("patch", "drm", name, "--subresource=status", "--type=merge", "-p", patch).stderr
    header, row = api.kubectl("get", "drm", name).stdout.splitlines()
    assert re.split(r"\s{2,}", header) == ["NAME", "READY", "CAUGHT-UP", "LAG", "AGE"]
    assert row.split()[:4] == [name, "True", "False", "42"]


def test_the_category_has_runs_and_mirrors(api: Api) -> None:
    mirror, _ = api.create(ALL)
    run = {"apiVersion": API_VERSION, "kind": "DbtRun", "metadata": {"name": "one"}, "spec": {"runId": 1}}
    assert not api.kubectl("create", "-f", "-", text=json.dumps(run)).stderr
    found = api.kubectl("get", "dbt", "-oname").stdout.splitlines()
    assert {"dbtrun.dbtrun.dev/one", f"dbtrunmirror.dbtrun.dev/{mirror}"} <= set(found)
