"""The release on a real API server: what is created, who may do what, what is left behind."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import time
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from dbtrun.api import API_VERSION, FINALIZER, KIND
from tests.chart.helm import CHART, ROOT, VALUES, Helm, documents, env_of
from tests.controlplane import Completed, ControlPlane
from tests.patience import patience

OLD: Final = ROOT / "tests/node/charts/dbtrun-dc2ee67.tgz"
"""The chart as it was before `mode` and most of the values."""
EXAMPLES: Final = sorted((ROOT / "deploy/examples").glob("*.yaml"))

Right = tuple[str, str, str]
"""API group, resource with the one name that it is limited to, verb."""


def rights(group: str, resource: str, *verbs: str) -> set[Right]:
    return {(group, resource, verb) for verb in verbs}


SERVE: Final = (
    rights("dbtrun.dev", "dbtruns", "get", "list", "watch", "create", "patch", "delete")
    | rights("dbtrun.dev", "dbtrunmirrors", "list", "watch")
    | rights("dbtrun.dev", "dbtrunmirrors/status", "patch")
    | rights("dbtrun.dev", "dbtruns/status", "patch")
    | rights("events.k8s.io", "events", "create")
)
KEEP_FILES: Final = rights("", "configmaps", "create", "get", "patch")
RELEASE_DELETED: Final = rights("dbtrun.dev", "dbtruns", "get", "list", "patch")
"""Everywhere: the watcher's RoleBinding in a namespace that is deleted goes before the DbtRuns."""
READ_CONNECTIONS: Final = rights("", "secrets", "get")


def lead(lease: str) -> set[Right]:
    group = "coordination.k8s.io"
    return rights(group, "leases", "create") | rights(group, f"leases {lease}", "get", "update")


def rights_of(plane: ControlPlane, identity: Path, namespace: str) -> set[Right]:
    """What an identity may do in a namespace, as the API server tells it, beyond what every account may."""
    nobody = identity_of(plane, "kube-public", "default")
    return told_rights(plane, identity, namespace) - told_rights(plane, nobody, namespace)


def told_rights(plane: ControlPlane, identity: Path, namespace: str) -> set[Right]:
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    flags = (f"--kubeconfig={identity}", "--validate=false", "-f-", "-ojson")
    answer = plane.kubectl_sync("create", *flags, input=json.dumps(review))
    return {
        (group, f"{resource} {name}".strip(), verb)
        for rule in json.loads(answer.stdout)["status"]["resourceRules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [""])
        for verb in rule["verbs"]
    }


def identity_of(plane: ControlPlane, namespace: str, account: str) -> Path:
    return asyncio.run(plane.kubeconfig_for(namespace, account))


def stored(plane: ControlPlane, *args: str) -> Any:
    return json.loads(plane.kubectl_sync("get", *args, "-ojson").stdout)


def pod_exists(plane: ControlPlane) -> None:
    """Waits for the Pod: Pod Security and the ServiceAccount were checked when it was made."""
    plane.kubectl_sync(
        "wait", "--namespace=dbtrun-system", "--for=create", "pod", "-lapp.kubernetes.io/name=dbtrun", "--timeout=120s"
    )


@pytest.mark.parametrize("file", sorted(VALUES.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_api_server_accepts_what_any_values_render(helm: Helm, cluster: ControlPlane, file: Path) -> None:
    text = helm.template(f"--values={file}")
    answer = cluster.kubectl_sync("apply", "--dry-run=server", "-f-", input=text)
    assert len(answer.stdout.splitlines()) == len(documents(text))
    # An object that Helm made before, as the CRD, lacks only what kubectl notes for itself.
    told = [line for line in answer.stderr.splitlines() if "last-applied-configuration" not in line]
    assert "Warning" not in "".join(told)


def test_the_pod_is_admitted_where_only_restricted_pods_are(installed: ControlPlane) -> None:
    pod_exists(installed)


def test_the_release_can_be_upgraded_in_place(helm: Helm, installed: ControlPlane) -> None:
    before = stored(installed, "deployment", "dbtrun", "--namespace=dbtrun-system")["metadata"]["generation"]
    answer = helm.run("upgrade", "dbtrun", str(CHART), "--namespace=dbtrun-system", "--reuse-values", plane=installed)
    assert answer.returncode == 0, answer.stderr
    after = stored(installed, "deployment", "dbtrun", "--namespace=dbtrun-system")["metadata"]["generation"]
    assert after == before


def test_an_upgrade_works_with_a_namespace_that_does_not_exist_yet(helm: Helm, installed: ControlPlane) -> None:
    command = ("upgrade", "dbtrun", str(CHART), "--namespace=dbtrun-system", "--reuse-values")
    wanted = "--set=watchNamespaces={dbtrun-system,team-a,team-new}"
    answer = helm.run(*command, wanted, plane=installed)
    assert answer.returncode == 0, answer.stderr
    assert "The namespace team-new does not exist." in answer.stdout
    installed.create_namespace_sync("team-new")
    answer = helm.run(*command, wanted, plane=installed)
    assert "The namespace team-new" not in answer.stdout
    assert stored(installed, "rolebinding", "dbtrun", "--namespace=team-new")["roleRef"]["name"] == "dbtrun"
    installed.kubectl_sync("delete", "namespace", "team-new", "--wait=false")
    answer = helm.run(*command, "--set=watchNamespaces={dbtrun-system,team-a}", plane=installed)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize(
    ("namespace", "expected"),
    [
        ("dbtrun-system", SERVE | KEEP_FILES | lead("dbtrun") | rights("", "secrets dbt-cloud", "get")),
        ("team-a", SERVE | KEEP_FILES | READ_CONNECTIONS),
        ("team-b", RELEASE_DELETED),
        ("kube-system", RELEASE_DELETED),
    ],
)
def test_the_watcher_may_do_what_it_needs_and_nothing_else(
    installed: ControlPlane, watcher_identity: Path, namespace: str, expected: set[Right]
) -> None:
    assert rights_of(installed, watcher_identity, namespace) == expected


def test_the_watcher_reads_a_connection_by_name_and_cannot_look_around(
    installed: ControlPlane, watcher_identity: Path
) -> None:
    installed.kubectl_sync("create", "secret", "generic", "prod", "--namespace=team-a")
    mine = f"--kubeconfig={watcher_identity}"
    assert installed.kubectl_sync(mine, "get", "secret", "prod", "--namespace=team-a", "-oname").stdout
    listing = installed.kubectl_sync(mine, "get", "secrets", "--namespace=team-a", check=False)
    assert 'cannot list resource "secrets"' in listing.stderr


def test_airflow_may_use_dbtruns_and_neither_their_status_nor_secrets(installed: ControlPlane) -> None:
    installed.kubectl_sync("create", "serviceaccount", "airflow-worker", "--namespace=team-b")
    airflow = identity_of(installed, "team-b", "airflow-worker")
    expected = rights("dbtrun.dev", "dbtruns", "get", "list", "watch", "create", "patch")
    expected |= rights("dbtrun.dev", "dbtrunmirrors", "get") | rights("", "configmaps", "get")
    assert rights_of(installed, airflow, "team-a") == expected
    assert rights_of(installed, airflow, "dbtrun-system") == set()


@pytest.mark.parametrize(("role", "may_create"), [("view", "no"), ("edit", "yes")])
def test_people_use_dbtruns_by_the_roles_they_have(installed: ControlPlane, role: str, may_create: str) -> None:
    binding = f"{role}-of-{role}er"
    installed.kubectl_sync(
        "create", "rolebinding", binding, f"--clusterrole={role}", f"--user={role}er", "--namespace=team-b"
    )

    def may(verb: str) -> str:
        asked = ("auth", "can-i", verb, "dbtruns.dbtrun.dev", f"--as={role}er", "--namespace=team-b")
        return installed.kubectl_sync(*asked, check=False).stdout.strip()

    until = time.monotonic() + patience(30)
    while may("list") != "yes":  # Kubernetes aggregates roles when it gets to it
        assert time.monotonic() < until
        time.sleep(0.2)
    assert may("create") == may_create


def test_a_watcher_of_the_whole_cluster_reads_secrets_only_where_the_values_say(
    helm: Helm, installed: ControlPlane
) -> None:
    text = helm.template("--set=watchAllNamespaces=true,crds.enabled=false,fullnameOverride=wide")
    installed.kubectl_sync("apply", "-f-", input=text)
    wide = identity_of(installed, "dbtrun-system", "wide")
    assert rights_of(installed, wide, "kube-system") == SERVE
    assert rights_of(installed, wide, "dbtrun-system") == SERVE | lead("wide") | READ_CONNECTIONS


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_is_accepted(installed: ControlPlane, example: Path) -> None:
    created = installed.kubectl_sync("create", "--dry-run=server", "--namespace=team-a", f"-f{example}").stdout
    assert created.endswith("created (server dry run)\n")


def test_the_notes_tell_how_to_start_a_run(installed: ControlPlane, notes: str) -> None:
    (manifest,) = re.findall(r"<<'YAML'\n(.*?)\n *YAML", notes, re.DOTALL)
    (command,) = re.findall(r"kubectl (create --namespace \S+)", notes)
    text = "\n".join(line.removeprefix("  ") for line in manifest.splitlines())
    assert "created" in installed.kubectl_sync(*command.split(), "--dry-run=server", "-f-", input=text).stdout


def test_the_notes_name_the_secret_that_is_read(installed: ControlPlane, notes: str) -> None:
    (name, namespace) = re.findall(r"secret generic (\S+) --namespace (\S+)", notes)[0]
    assert (
        env_of(stored(installed, "deployment", "dbtrun", f"--namespace={namespace}"))["DBTRUN_CONNECTION_SECRET"]
        == name
    )


@pytest.mark.parametrize(
    ("users", "names_its_own"),
    [
        ("", True),
        ("connection.namespaces={team-b}", True),
        ("connection.namespaces={team-a}", False),
        ("connection.namespaces={*}", False),
        ("connection.existingSecret=", True),
    ],
)
def test_the_run_of_the_notes_has_a_connection_that_it_may_use(helm: Helm, users: str, names_its_own: bool) -> None:
    notes = helm.notes("--set=watchNamespaces={team-a}", *([f"--set={users}"] if users else []))
    (manifest,) = re.findall(r"<<'YAML'\n(.*?)\n *YAML", notes, re.DOTALL)
    spec = yaml.safe_load(manifest)["spec"]
    assert ("connectionRef" in spec) == names_its_own
    assert spec["job"]


def test_uninstalling_keeps_the_runs_and_they_can_be_taken_over_again(helm: Helm, bare_plane: ControlPlane) -> None:
    bare_plane.create_namespace_sync("dbtrun-system")
    helm.install(bare_plane)
    bare_plane.kubectl_sync("create", "--namespace=dbtrun-system", f"-f{ROOT / 'deploy/examples/run.yaml'}")
    before = stored(bare_plane, "dbtruns", "--namespace=dbtrun-system")["items"]
    helm.uninstall(bare_plane)
    assert stored(bare_plane, "dbtruns", "--namespace=dbtrun-system")["items"] == before
    helm.install(bare_plane)
    assert stored(bare_plane, "dbtruns", "--namespace=dbtrun-system")["items"] == before


def test_the_upgrade_from_an_older_chart_takes_the_new_values_too(helm: Helm, bare_plane: ControlPlane) -> None:
    bare_plane.create_namespace_sync("dbtrun-system")
    where = ("dbtrun", "--namespace=dbtrun-system")
    old = helm.run("install", where[0], str(OLD), where[1], "--set=settings.leaseSeconds=20", plane=bare_plane)
    assert old.returncode == 0, old.stderr

    def upgrade(flag: str) -> Completed:
        return helm.run("upgrade", where[0], str(CHART), where[1], flag, plane=bare_plane)

    assert "upgrade with --reset-then-reuse-values in place of --reuse-values" in upgrade("--reuse-values").stderr
    documented = upgrade("--reset-then-reuse-values")
    assert documented.returncode == 0, documented.stderr
    assert env_of(stored(bare_plane, "deployment", "dbtrun", where[1]))["DBTRUN_LEASE_SECONDS"] == "20"


def test_a_second_release_is_told_what_to_do_about_the_crd(helm: Helm, installed: ControlPlane) -> None:
    def second(*args: str) -> Completed:
        where = ("--namespace=team-b", "--dry-run=server")
        return helm.run("install", "second", str(CHART), *where, *args, plane=installed)

    refused = second()
    assert refused.returncode == 1
    assert "installed by the release dbtrun in the namespace dbtrun-system." in refused.stderr
    assert "--set crds.enabled=false" in refused.stderr
    beside = second("--set=crds.enabled=false")
    assert beside.returncode == 0, beside.stderr


def test_a_crd_without_helm_is_taken_over_by_the_commands_of_the_message(helm: Helm, bare_plane: ControlPlane) -> None:
    bare_plane.create_namespace_sync("dbtrun-system")
    bare_plane.kubectl_sync("apply", f"-k{ROOT / 'deploy/crd'}")
    where = ("--namespace=dbtrun-system",)
    refused = helm.run("install", "dbtrun", str(CHART), *where, plane=bare_plane)
    assert "are in this cluster already, installed without Helm." in refused.stderr
    for command in re.findall(r"kubectl ((?:annotate|label) .*)", refused.stderr):
        bare_plane.kubectl_sync(*shlex.split(command))
    helm.install(bare_plane)
    for name in ("dbtruns.dbtrun.dev", "dbtrunmirrors.dbtrun.dev"):
        assert stored(bare_plane, "crd", name)["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "Helm"


def test_who_does_not_keep_the_crd_is_rid_of_everything(helm: Helm, bare_plane: ControlPlane) -> None:
    bare_plane.create_namespace_sync("dbtrun-system")
    helm.install(bare_plane, "--set=crds.keep=false")
    helm.uninstall(bare_plane)
    bare_plane.kubectl_sync("wait", "--for=delete", "crd/dbtruns.dbtrun.dev", "--timeout=120s")
    left = bare_plane.kubectl_sync("get", "clusterroles,clusterrolebindings", "-oname").stdout
    assert "dbtrun" not in left


def test_a_run_that_no_watcher_cares_for_can_still_be_deleted_as_the_readme_says(installed: ControlPlane) -> None:
    (patch,) = re.findall(r"kubectl (patch dbtrun .*)", (ROOT / "deploy/README.md").read_text())
    left = dbtrun_with_finalizer("left-behind")
    where = "--namespace=team-a"
    installed.kubectl_sync("create", where, "-f-", input=json.dumps(left))
    installed.kubectl_sync("delete", where, "dbtrun", "left-behind", "--wait=false")
    installed.kubectl_sync(where, *shlex.split(patch.replace("NAME", "left-behind").replace("dbtrun-system", "team-a")))
    installed.kubectl_sync("wait", where, "--for=delete", "dbtrun/left-behind", "--timeout=120s")


def dbtrun_with_finalizer(name: str) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name, "finalizers": [FINALIZER]},
        "spec": {"job": {"id": 1}},
    }
