"""`dbtrun doctor` on a real API server: with a healthy watcher, and with one mistake at a time."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from tests.cluster.shell import Shell, forked_to_its_end
from tests.controlplane import ControlPlane
from tests.patience import patience
from tests.stack import JOBS, Own, Stack, dbt_run, until
from tests.stack.mirrors import mirror, ready
from tests.stack.site import CRD
from tests.stack.stack import SECRET

pytestmark = pytest.mark.asyncio(loop_scope="module")
NAMESPACE = "doctor"
SECONDS = 120.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    await asyncio.to_thread(plane.create_namespace_sync, NAMESPACE)
    values = {"settings": {"loopbackConnections": True}}  # as the Deployment must say, or the Secret's host is refused
    async with Stack.up(plane, NAMESPACE, tmp_path_factory.mktemp("doctor"), values=values) as stack:
        own = Own(stack, "first")
        await own.apply()
        await own.reaches("Succeeded")
        yield stack


@pytest.fixture(scope="module")
def shell(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(stack.plane, tmp_path_factory.mktemp("shell"), NAMESPACE)


async def found(shell: Shell, *arguments: str) -> tuple[int, dict[str, str], Any]:
    """The exit code, what is in the way by check, and everything."""
    began = time.monotonic()
    ended = await shell.types("doctor", "-o", "json", *arguments)
    assert time.monotonic() - began < patience(SECONDS)
    report = json.loads(ended.out)
    return ended.code, {one["check"]: one["message"] for one in report["findings"] if one["verdict"] == "bad"}, report


async def test_nothing_is_in_the_way_of_a_healthy_system_and_nothing_is_changed(shell: Shell, stack: Stack) -> None:
    journal, objects = await stack.journal(), await stack.kubectl("get", "dr,secrets,leases", "-o", "name")
    await stack.ask("DELETE", "/requests")
    code, wrong, report = await found(shell, "--job", str(JOBS["success"]))
    assert (code, wrong) == (0, {}), report
    checks = {one["check"] for one in report["findings"] if one["verdict"] == "good"}
    assert {"crd", "rights", "watcher", "connection", "stale writes", "account", "clock", "job", "filters"} <= checks
    assert report["requests"] <= 60
    assert await stack.journal() == journal
    assert await stack.kubectl("get", "dr,secrets,leases", "-o", "name") == objects


async def test_mirrors_that_work_and_those_that_do_not(shell: Shell, stack: Stack) -> None:
    await stack.apply(
        mirror("works", select={"jobIds": [JOBS["success"]]}),
        mirror("wrong", select={"jobIds": [4711]}),
        mirror("without", connectionRef={"name": "none"}),
    )
    await ready(stack, "works")
    await ready(stack, "wrong")
    code, wrong, report = await found(shell)
    assert code == 1
    assert "The token does not see the job 4711, which a mirror selects" in wrong["mirrored jobs"]
    assert "The mirror without does not work: " in wrong["mirrors"]
    assert "(InvalidConnection)" in wrong["mirrors"]
    assert "2 mirrors work and have caught up." in str(report["findings"])
    assert report["requests"] <= 60
    await stack.kubectl("delete", "drm", "--all")


async def test_people_read_a_line_for_each_check(shell: Shell) -> None:
    ended = await shell.types("doctor", "--job", str(JOBS["success"]))
    assert ended.code == 0
    for words in (
        "Cluster\n",
        "  ✓ The CRD is installed",
        "dbt Cloud\n",
        "Assumptions\n",
        "  ✓ dbt Cloud accepts the token",
    ):
        assert words in ended.out
    assert "\x1b" not in ended.out


async def test_with_start_a_run_is_started_and_cancelled_and_the_assumptions_hold(shell: Shell, stack: Stack) -> None:
    before = len(await stack.journal())
    code, wrong, report = await found(shell, "--start", str(JOBS["endless"]))
    assert (code, wrong) == (0, {}), report
    assert [entry["action"] for entry in (await stack.journal())[before:]] == ["start", "cancel"]
    assert [one["verdict"] for one in report["assumptions"]] == ["good", "unknown", "unknown", "good", "good"]
    assert report["requests"] <= 60


async def test_a_record_is_a_scenario(shell: Shell, stack: Stack, tmp_path: Path) -> None:
    file = tmp_path / "record.yaml"
    await found(shell, "--record", str(file))
    recorded = file.read_text()
    assert "job 1" in recorded
    assert [secret for secret in (stack.token, "daily build", "broken build") if secret in recorded] == []


async def test_a_namespace_that_does_not_exist(shell: Shell) -> None:
    _, wrong, _ = await found(shell, "-n", "no-such-namespace")
    assert wrong["namespace"] == "There is no namespace no-such-namespace."


async def test_a_namespace_that_no_watcher_serves(shell: Shell, stack: Stack) -> None:
    await asyncio.to_thread(stack.plane.create_namespace_sync, "unserved")
    code, wrong, _ = await found(shell, "-n", "unserved")
    assert code == 1
    # The control plane may have the Deployments of other tests, too.
    assert re.match("No watcher serves the namespace unserved; Deployment [^ ]+ serves ", wrong["watcher"])


async def test_rights_that_are_missing(shell: Shell, stack: Stack) -> None:
    weak = await stack.plane.kubeconfig_for(NAMESPACE, "default")
    _, wrong, report = await found(shell, "--kubeconfig", str(weak))
    assert wrong["rights"].startswith("You may not get, list, watch, create, patch, delete DbtRuns")
    assert "connection" not in wrong, "what may not be read is not wrong"
    assert report["requests"] <= 60


SECRETS: list[tuple[str, str, dict[str, str], str]] = [
    ("of-another-type", "Opaque", {}, "is of type Opaque, not dbtrun.dev/connection"),
    ("without-a-token", "", {"token": ""}, "key `token` is empty"),
    ("with-a-strange-account", "", {"account-id": "acme"}, "key `account-id` is not the number of an account"),
    (
        "with-a-strange-host",
        "",
        {"host": "dbt.example.com"},
        "key `host` is not in the allowed domains: getdbt.com, dbt.com",
    ),
]


@pytest.mark.parametrize(("name", "kind", "keys", "words"), SECRETS)
async def test_a_secret_that_cannot_be_used(
    shell: Shell, stack: Stack, name: str, kind: str, keys: dict[str, str], words: str
) -> None:
    made = stack.secret(name, stack.keys() | keys)
    await stack.apply(made | ({"type": kind} if kind else {}))
    _, wrong, _ = await found(shell, "--connection", name)
    assert wrong.keys() == {"connection"}
    assert words in wrong["connection"]


async def test_a_secret_that_is_missing(shell: Shell) -> None:
    _, wrong, _ = await found(shell, "--connection", "no-such")
    assert wrong == {"connection": "There is no Secret no-such in the namespace doctor."}


async def test_a_token_that_is_refused(shell: Shell, stack: Stack) -> None:
    await stack.apply(stack.secret("refused", stack.keys("dbtc_of_nobody")))
    _, wrong, _ = await found(shell, "--connection", "refused")
    assert wrong.keys() == {"account"}
    assert "the token is refused (401)" in wrong["account"]


async def test_a_policy_that_refuses_the_runs(shell: Shell, stack: Stack) -> None:
    rules = [
        {"apiGroups": ["dbtrun.dev"], "apiVersions": ["*"], "operations": ["CREATE"], "resources": ["dbtruns"]},
    ]
    here = {"matchLabels": {"kubernetes.io/metadata.name": NAMESPACE}}
    validations = [{"expression": "false", "message": "no runs on Fridays"}]
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "no-fridays"},
        "spec": {"matchConstraints": {"resourceRules": rules, "namespaceSelector": here}, "validations": validations},
    }  # fmt: skip
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": "no-fridays"}, "spec": {"policyName": "no-fridays", "validationActions": ["Deny"]},
    }  # fmt: skip
    await stack.apply(policy, binding)

    async def in_force() -> bool:
        create = ("-n", NAMESPACE, "create", "--dry-run=server", "-f", "-")
        return (await stack.plane.kubectl(*create, input=json.dumps(dbt_run("friday")), check=False)).returncode != 0

    try:
        await until(in_force, 120, "the policy is in force", pause=1.0)
        _, wrong, _ = await found(shell)
        assert wrong.keys() == {"dry run"}
        assert "no runs on Fridays" in wrong["dry run"]
    finally:
        kinds = "validatingadmissionpolicybinding,validatingadmissionpolicy"
        await stack.kubectl("delete", kinds, "no-fridays")


async def test_a_watcher_that_may_not_read_the_secret(shell: Shell, stack: Stack) -> None:
    name = "dbtrun-connections"
    role = await stack.json("get", "role", name)
    await stack.kubectl("delete", "role", name)
    try:
        _, wrong, _ = await found(shell)
        assert wrong == {"connection rights": "The watcher may not read the Secret of the connection."}
    finally:
        await stack.apply({key: role[key] for key in ("apiVersion", "kind", "rules")} | {"metadata": {"name": name}})


async def test_two_watchers_for_one_namespace(shell: Shell, stack: Stack) -> None:
    deployment = await stack.json("get", "deployment", "dbtrun")
    twin = {"apiVersion": "apps/v1", "kind": "Deployment", "spec": deployment["spec"]}
    await stack.apply(twin | {"metadata": {"name": "twin", "labels": deployment["metadata"]["labels"]}})
    try:
        _, wrong, _ = await found(shell)
        assert wrong.keys() == {"watcher"}
        assert "Deployment doctor/dbtrun and Deployment doctor/twin" in wrong["watcher"]
    finally:
        await stack.kubectl("delete", "deployment", "twin")


async def test_no_cluster_at_all(shell: Shell, tmp_path: Path) -> None:
    config = json.loads(shell.config.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    file = tmp_path / "kubeconfig"
    file.write_text(json.dumps(config))
    _, wrong, _ = await found(shell, "--kubeconfig", str(file))
    assert wrong.keys() == {"access"}
    assert "No answer from https://127.0.0.1:9" in wrong["access"]
    for user in config["users"]:
        user["user"] = {"token": "of-nobody"}
    config["clusters"] = json.loads(shell.config.read_text())["clusters"]
    file.write_text(json.dumps(config))
    _, wrong, _ = await found(shell, "--kubeconfig", str(file))
    assert wrong.keys() == {"access"}
    assert "does not accept the credentials" in wrong["access"]


async def test_dbt_cloud_alone_without_a_cluster(shell: Shell, stack: Stack) -> None:
    shell.env["DBT_CLOUD_TOKEN"] = stack.token
    try:
        account = str(stack.keys()["account-id"])
        code, wrong, report = await found(shell, "--no-cluster", "--host", stack.url, "--account-id", account)
    finally:
        del shell.env["DBT_CLOUD_TOKEN"]
    assert (code, wrong) == (0, {}), report


async def checked(stack: Stack, *arguments: str, **environ: str) -> tuple[dict[str, str], dict[str, Any]]:
    """What `dbtrun check` finds with the watcher's environment: messages by check, and everything."""
    code, out, err = await asyncio.to_thread(forked_to_its_end, ("check", *arguments), stack.watcher.env | environ)
    assert (code, err) == (0, "")
    assert stack.token not in out
    document = json.loads(out)
    return {one["check"]: one["message"] for one in document["findings"] if one["verdict"] == "bad"}, document


async def test_the_watchers_pod_finds_nothing_in_the_way_and_changes_nothing(stack: Stack) -> None:
    journal, objects = await stack.journal(), await stack.kubectl("get", "dr,secrets", "-o", "name")
    wrong, document = await checked(stack, "--job", str(JOBS["success"]), "--mirrored", str(JOBS["failure"]))
    assert wrong == {}, document
    checks = {one["check"] for one in document["findings"] if one["verdict"] == "good"}
    assert {"connection", "account", "clock", "job", "list order", "causes", "filters", "mirrored jobs"} <= checks
    assert document["requests"] <= 20
    assert document["record"]["jobs"]
    assert await stack.journal() == journal
    assert await stack.kubectl("get", "dr,secrets", "-o", "name") == objects


async def test_the_watchers_pod_starts_a_run_only_on_request(stack: Stack) -> None:
    before = len(await stack.journal())
    wrong, _ = await checked(stack, "--start", str(JOBS["endless"]))
    assert wrong == {}
    assert [entry["action"] for entry in (await stack.journal())[before:]] == ["start", "cancel"]


@pytest.mark.parametrize(
    ("arguments", "environ", "check", "words"),
    [
        (["-n", NAMESPACE, "--connection", "of-nobody"], {}, "account", "the token is refused (401)"),
        (["-n", NAMESPACE, "--connection", "no-such"], {}, "connection", "There is no Secret no-such in the namespace"),
        (["-n", "default", "--connection", "x"], {}, "connection", "The watcher cannot read the Secret default/x"),
        ([], {"DBTRUN_LOOPBACK_CONNECTIONS": "false"}, "connection", "key `host` is this machine"),
    ],
)
async def test_the_watchers_pod_names_what_is_wrong(
    stack: Stack, arguments: list[str], environ: dict[str, str], check: str, words: str
) -> None:
    await stack.apply(stack.secret("of-nobody", stack.keys("dbtc_of_nobody")))
    wrong, _ = await checked(stack, *arguments, **environ)
    assert wrong.keys() == {check}
    assert words in wrong[check]


async def test_the_watchers_pod_reads_a_connection_from_files(stack: Stack, tmp_path: Path) -> None:
    for key, value in stack.keys().items():
        (tmp_path / key).write_text(value)
    files = {"DBTRUN_CONNECTION_SECRET": "", "DBTRUN_CONNECTION_DIR": str(tmp_path)}
    wrong, document = await checked(stack, **files)
    assert wrong == {}, document
    assert {one["check"] for one in document["findings"] if one["verdict"] == "good"} >= {"connection", "clock"}
    (tmp_path / "token").unlink()
    wrong, _ = await checked(stack, **files)
    assert wrong == {"connection": f"directory {tmp_path}: key `token` is missing."}


async def test_without_a_pod_or_a_right_the_way_to_one_is_told(shell: Shell, stack: Stack) -> None:
    """The watcher of this test is a process, not a pod."""
    code, wrong, report = await found(shell, "--from-pod")
    assert (code, wrong) == (0, {})
    (told,) = [one for one in report["findings"] if one["check"] == "pod"]
    assert "There is no pod watcher in the namespace doctor." in told["message"]
    assert "account" not in {one["check"] for one in report["findings"]}, "nothing is asked from here"
    rights = {"dbtruns.dbtrun.dev": "get,list", "deployments.apps": "get,list", "leases.coordination.k8s.io": "get"}
    for resource, verbs in rights.items():
        name = f"sees-{resource.partition('.')[0]}"
        await stack.kubectl("create", "role", name, f"--verb={verbs}", f"--resource={resource}")
        await stack.kubectl("create", "rolebinding", name, f"--role={name}", f"--serviceaccount={NAMESPACE}:default")
    weak = await stack.plane.kubeconfig_for(NAMESPACE, "default")
    _, _, report = await found(shell, "--from-pod", "--kubeconfig", str(weak))
    (told,) = [one for one in report["findings"] if one["check"] == "pod"]
    assert told["message"] == "You may not run commands in the pod doctor/watcher."
    assert told["remedy"].endswith("pods/exec in the namespace doctor.")


# The last one of the stack: it ends the watcher.


async def test_a_watcher_that_is_away_and_one_that_was_stopped(shell: Shell, stack: Stack) -> None:
    await stack.watcher.kill()
    _, wrong, _ = await found(shell)
    assert "does not respond:" in wrong["watcher"]
    await stack.kubectl("patch", "lease", "dbtrun", "--type=merge", "-p", '{"spec": {"holderIdentity": ""}}')
    _, wrong, _ = await found(shell)
    assert "nobody holds its Lease" in wrong["watcher"]
    await stack.kubectl("delete", "lease", "dbtrun")
    _, wrong, _ = await found(shell)
    assert "has never worked: it has no Lease" in wrong["watcher"]
    await stack.kubectl("delete", "secret", SECRET)
    _, wrong, _ = await found(shell)
    assert wrong["connection"] == "There is no Secret dbt-cloud in the namespace doctor."


@pytest.fixture
def other(tmp_path: Path) -> Iterator[ControlPlane]:
    """A control plane of its own: others need the CRD."""
    with ControlPlane(tmp_path) as plane:
        yield plane


async def test_a_crd_that_is_missing_or_older(other: ControlPlane, tmp_path: Path) -> None:
    shell = Shell(other, tmp_path, "default")
    code, wrong, _ = await found(shell)
    assert (code, wrong) == (1, {"crd": "The cluster has no CRD dbtruns.dbtrun.dev: DbtRun is not installed."})
    crd = yaml.safe_load(CRD.read_text())
    del crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"][
        "ttlSecondsAfterFinished"
    ]
    await other.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(crd))
    await other.kubectl("wait", "--for=condition=Established", "crd/dbtruns.dbtrun.dev", "--timeout=60s")

    async def told() -> bool:
        _, wrong, _ = await found(shell)
        return wrong.get("crd") == "The CRD is older than this program: it lacks spec.ttlSecondsAfterFinished."

    await until(told, 90, "the older CRD is named")
    _, wrong, _ = await found(shell)
    assert wrong["watcher"] == "No watcher is installed."
