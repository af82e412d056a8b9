"""Every right that the chart gives is needed: each is taken away once, and what it is for stops working.

The watcher is the real process, as its ServiceAccount. A right is taken out of its Role while the watcher runs. If the
watcher needs it to begin, it is taken before.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
import yaml

from airflow_trigger.artifacts import Files
from airflow_trigger.reacting.mirror import read_mirror
from airflow_trigger.task.runs import task_runs
from airflow_trigger.waiting.runs import HubRuns
from dbtrun.api import API_VERSION, PLURAL
from dbtrun.kube.config import ClusterConfig
from dbtrun.kube.connect import connect
from dbtrun.kube.errors import Forbidden
from tests.chart.helm import Helm
from tests.cluster.objects import kubeconfig_to
from tests.controlplane import ControlPlane
from tests.stack.dbt import JOBS
from tests.stack.own import Own
from tests.stack.program import Program
from tests.stack.proxy import Proxy
from tests.stack.site import dbt_run
from tests.stack.stack import SECRET, Stack
from tests.stack.waiting import until
from watcher.cluster.access import ClusterAccess
from watcher.cluster.writer import Writer

HERE: Final = "rights"
THERE: Final = "rights-too"
"""The second namespace that is served: there, Secrets may be read."""
DELETIONS: Final = f"{HERE}:dbtrun:deletions"
"""The ClusterRole for namespaces that are being deleted. It gives some rights on DbtRuns a second time."""
VALUES: Final[dict[str, Any]] = {
    "watchNamespaces": [HERE, THERE],
    "secretNamespaces": [THERE],
    "connection": {"namespaces": [HERE]},
    "airflow": {"serviceAccounts": [{"name": "airflow", "namespace": HERE}], "namespaces": [HERE]},
    "rbac": {"aggregate": False},
    "settings": {"leaseSeconds": 5},
}


class Right(NamedTuple):
    """One verb of one rule of one Role."""

    role: str
    resource: str
    verb: str

    @property
    def namespace(self) -> str:
        return THERE if self.role == "dbtrun-connections" else HERE

    @property
    def path(self) -> str:
        """Where its Role is."""
        where = rbac("clusterroles") if self.role == DELETIONS else rbac("roles", self.namespace)
        return f"{where}/{self.role}"

    @property
    def refused(self) -> str:
        """How the API server says, in a log, that it is missing."""
        return rf'cannot {self.verb} resource \\*"{self.resource}\\*"'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    for namespace in (HERE, THERE):
        await asyncio.to_thread(plane.create_namespace_sync, namespace)
    await plane.kubectl("create", "serviceaccount", "airflow", f"--namespace={HERE}")
    async with Stack.up(plane, HERE, tmp_path_factory.mktemp("rights"), values=VALUES) as stack:
        yield stack


@contextlib.asynccontextmanager
async def unbound(stack: Stack, kind: str, name: str) -> AsyncIterator[None]:
    """Deletes a binding for a while."""
    path = rbac(f"{kind}s", HERE if kind == "rolebinding" else "")
    whole = await found(stack, f"{path}/{name}")
    await stack.plane.change("DELETE", f"{path}/{name}")
    try:
        yield
    finally:
        whole["metadata"] = {key: whole["metadata"][key] for key in ("name", "namespace") if key in whole["metadata"]}
        await stack.plane.change("POST", path, whole)


@contextlib.asynccontextmanager
async def without(stack: Stack, right: Right) -> AsyncIterator[None]:
    """Takes the right away for a while. The API server's caches have noticed before and after."""
    whole = (await found(stack, right.path))["rules"]
    less = copy.deepcopy(whole)
    for rule in less:
        if right.resource in rule["resources"] and right.verb in rule["verbs"]:
            rule["verbs"] = [verb for verb in rule["verbs"] if verb != right.verb]
    await replaced(stack, right, [rule for rule in less if rule["verbs"]])
    try:
        await allowed(stack, right, wanted=False)
        yield
    finally:
        await replaced(stack, right, whole)
        await allowed(stack, right, wanted=True)


def rbac(plural: str, namespace: str = "") -> str:
    """Where the API server keeps Roles and bindings: not kubectl, for each test would start ten of its processes."""
    return f"/apis/rbac.authorization.k8s.io/v1/{f'namespaces/{namespace}/' if namespace else ''}{plural}"


async def found(stack: Stack, path: str) -> dict[str, Any]:
    whole = await stack.plane.read(path)
    assert whole is not None, f"{path} does not exist"
    return whole


async def replaced(stack: Stack, right: Right, rules: list[dict[str, Any]]) -> None:
    patch = [{"op": "replace", "path": "/rules", "value": rules}]
    await stack.plane.change("PATCH", right.path, patch, "application/json-patch+json")


async def allowed(stack: Stack, right: Right, wanted: bool) -> None:
    account = "airflow" if right.role == "dbtrun-airflow" else "dbtrun"
    groups = dict.fromkeys(("dbtruns", "dbtrunmirrors"), "dbtrun.dev") | {
        "events": "events.k8s.io",
        "leases": "coordination.k8s.io",
    }
    resource, _, sub = right.resource.partition("/")
    asked = {"namespace": right.namespace, "verb": right.verb, "group": groups.get(resource, "")}
    asked |= {"resource": resource, "subresource": sub}
    if right.verb != "create":
        asked["name"] = {"leases": "dbtrun", "secrets": SECRET}.get(resource, "")
    who = {"user": f"system:serviceaccount:{HERE}:{account}", "resourceAttributes": asked}

    async def noticed() -> bool:
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        answer = await stack.plane.change("POST", path, {"spec": who})
        return answer["status"]["allowed"] is wanted

    await until(noticed, 30, f"{right} {'given' if wanted else 'taken'}")


# ── what each right is for ──


async def applied(stack: Stack, name: str, /, **spec: Any) -> str:
    await stack.apply(dbt_run(name, **spec))
    return name


async def takes_on(stack: Stack, right: Right) -> None:
    """A DbtRun gets its finalizer, and its status, before anything is started."""
    name = f"takes-on-{right.resource.replace('/', '-')}"
    before = len(await stack.runs())
    async with without(stack, right):
        said = len(stack.watcher.text())
        await applied(stack, name)
        await stack.watcher.says(right.refused, after=said)
        assert len(await stack.runs()) == before
    await stack.reaches(name, "Succeeded")


async def tidies_up(stack: Stack, right: Right) -> None:
    """A finished DbtRun is deleted after its time to live."""
    async with without(stack, right):
        said = len(stack.watcher.text())
        await applied(stack, "tidied", ttlSecondsAfterFinished=1)
        await stack.watcher.says(right.refused, after=said)
        await stack.reaches("tidied", "Succeeded")
    await stack.gone("tidied")


async def reports(stack: Stack, right: Right) -> None:
    """What happened to a DbtRun is told by Events."""
    async with without(stack, right):
        said = len(stack.watcher.text())
        await applied(stack, "silent")
        await stack.reaches("silent", "Succeeded")
        await stack.watcher.says(right.refused, after=said)
        assert await stack.events("silent") == []
    await applied(stack, "told")
    await stack.reaches("told", "Succeeded")
    assert await stack.events("told")


async def keeps_files(stack: Stack, right: Right) -> None:
    """A DbtRun's files are kept, and its status says which right is missing."""
    async with without(stack, right):
        await applied(stack, "unkept", artifacts=["manifest.json"])
        (file,) = (await stack.reaches("unkept", "Succeeded"))["artifacts"]
        assert "artifacts.namespaces give the right" in file["problem"]
    await applied(stack, "kept", artifacts=["manifest.json"])
    (file,) = (await stack.reaches("kept", "Succeeded"))["artifacts"]
    assert "problem" not in file


async def adds_files(stack: Stack, right: Right) -> None:
    """A file that comes late is put beside those that are kept."""
    name = await applied(stack, f"adds-{right.verb}")
    await stack.reaches(name, "Succeeded")
    async with writing(stack) as writer:
        run = await writer.get(HERE, name)
        await writer.keep_artifacts(run, f"{name}-files", {"first": b"1"})
        async with without(stack, right):
            with pytest.raises(Forbidden, match=right.refused):
                await writer.keep_artifacts(run, f"{name}-files", {"second": b"2"})
        await writer.keep_artifacts(run, f"{name}-files", {"second": b"2"})
    assert (await stack.json("get", "configmap", f"{name}-files"))["data"] == {"first": "1", "second": "2"}


async def mirrors(stack: Stack, right: Right) -> None:
    """Runs that others start get DbtRuns."""
    name = f"mirrors-{right.verb}-{right.resource.partition('/')[2]}"
    metadata = {"name": name.strip("-")}
    async with without(stack, right), started(stack, right) as watcher:
        mirror = {"apiVersion": API_VERSION, "kind": "DbtRunMirror", "metadata": metadata}
        await stack.apply(mirror | {"spec": {"select": {"allJobs": True}}})
        run_id = (await stack.ask("POST", "/runs", {"job_id": JOBS["success"]}))["id"]
        await watcher.says(right.refused)
    if right.verb == "list":  # the watcher asks for a list that was refused only once a minute
        await watcher.stop()
        watcher.start()

    async def shown() -> str:
        path = f"/apis/{API_VERSION}/namespaces/{HERE}/{PLURAL}?labelSelector=dbtrun.dev/mirror={metadata['name']}"
        return str([each["metadata"]["name"] for each in (await found(stack, path))["items"]])

    await saying(shown, str(run_id))
    await stack.reaches(f"{metadata['name']}-{run_id}", "Succeeded")
    await stack.kubectl("delete", "drm", metadata["name"])


async def looks_again(stack: Stack, right: Right) -> None:
    """After a conflict the watcher reads the one DbtRun, as the watch may take its time."""
    name = await applied(stack, "looked-at")
    async with writing(stack) as writer, without(stack, right):
        with pytest.raises(Forbidden, match=right.refused):
            await writer.get(HERE, name)
    await stack.reaches(name, "Succeeded")


async def lets_go(stack: Stack, right: Right) -> None:
    """A DbtRun can be deleted where Kubernetes has deleted the watcher's RoleBinding already, as it does in a namespace
    that is deleted as a whole: by a watcher that runs, one that meets a conflict, and one that starts."""
    name = f"let-go-{right.verb}"
    await stack.apply(dbt_run(name, "endless"))
    await stack.reaches(name, "Running")
    async with unbound(stack, "rolebinding", "dbtrun"):
        async with without(stack, right):
            if right.verb == "get":
                async with writing(stack) as writer:
                    with pytest.raises(Forbidden, match=right.refused):
                        await writer.get(HERE, name)
            elif right.verb == "list":
                async with started(stack, right) as watcher:
                    await watcher.says(right.refused)
            else:
                said = len(stack.watcher.text())
                await stack.delete(name)
                await stack.watcher.says(right.refused, after=said)
                assert (await stack.get(name))["metadata"]["finalizers"]
        if right.verb != "patch":
            await stack.delete(name)
        await stack.gone(name)


async def reads_connections(stack: Stack, right: Right) -> None:
    """The Secret that a DbtRun names is read, and its status says which right is missing."""
    run = dbt_run("named", connectionRef={"name": "named"})
    mine = (f"--namespace={THERE}", "-f-")

    async def told() -> str:
        path = f"/apis/{API_VERSION}/namespaces/{THERE}/{PLURAL}/named"
        return json.dumps((await found(stack, path)).get("status", {}))

    async with without(stack, right):
        await stack.kubectl("apply", *mine, input=json.dumps(stack.secret("named", stack.keys())))
        await stack.kubectl("apply", *mine, input=json.dumps(run))
        await saying(told, "secretNamespaces in the chart's values")
    await saying(told, "Succeeded")


async def saying(text: Callable[[], Awaitable[str]], words: str) -> None:
    async def said() -> bool:
        return words in await text()

    try:
        await until(said, 60, words, pause=0.5)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{await text()}") from None


async def finds_the_default(stack: Stack, right: Right) -> None:
    """The default connection is read by its name, in a namespace where no other Secret may be read."""
    async with without(stack, right), started(stack, right):
        name = await applied(stack, "by-default")
        await stack.reaches(name, "Pending", reason="InvalidConnection")
    await stack.reaches(name, "Succeeded")


async def begins(stack: Stack, right: Right) -> None:
    """A watcher that starts lists and watches what is there, and acts when it holds the Lease."""
    name = f"begins-{right.resource}-{right.verb}"
    if right == Right("dbtrun-leader", "leases", "create"):
        await stack.watcher.stop()
        await stack.kubectl("delete", "lease", "dbtrun")
    async with without(stack, right), started(stack, right) as watcher:
        await watcher.says(right.refused)
        await applied(stack, name)
        assert "phase" not in await stack.status(name)
    await stack.reaches(name, "Succeeded")


@contextlib.asynccontextmanager
async def started(stack: Stack, right: Right) -> AsyncIterator[Program]:
    """Another watcher in the place of the one that runs. It stays: with the right, it works without a restart."""
    if stack.watcher.running:
        await stack.watcher.stop()
    other = stack.another_watcher(
        f"without-{right.verb}-{right.resource.replace('/', '-')}-{right.role.replace(':', '-')}"
    )
    other.start()
    stack.watcher = other
    yield other


@contextlib.asynccontextmanager
async def writing(stack: Stack) -> AsyncIterator[Writer]:
    """The part of the watcher that writes, as the watcher's account."""
    access = await ClusterAccess.load(Path(stack.watcher.env["DBTRUN_KUBECONFIG"]))
    try:
        yield Writer(access)
    finally:
        await access.close()


async def serves_airflow(stack: Stack, right: Right) -> None:
    """Operators create, find, cancel and mark DbtRuns and read their files; triggers list and watch them."""
    kubeconfig = await stack.plane.kubeconfig_for(HERE, "airflow")
    name = f"of-airflow-{right.verb}"
    body = dbt_run(name) | {"metadata": {"name": f"{name}-created"}}
    cluster = connect(ClusterConfig(config_file=str(kubeconfig)))
    runs, files = HubRuns(cluster, HERE), Files(cluster, HERE)
    seen = {"metadata": {"annotations": {"seen": "yes"}}}
    await applied(stack, name, artifacts=["manifest.json"])
    (file,) = (await stack.reaches(name, "Succeeded"))["artifacts"]

    async def watched() -> object:
        listed = json.loads(await stack.kubectl("get", "dr", "-ojson"))["metadata"]["resourceVersion"]
        async with contextlib.aclosing(runs.watch(listed, 90)) as changes:
            await stack.kubectl("annotate", "dr", name, "touched=yes")
            return await anext(changes)

    uses: dict[tuple[str, str], Callable[[], Awaitable[object]]] = {
        ("dbtruns", "get"): lambda: runs.get(name),
        ("dbtruns", "list"): runs.list,
        ("dbtruns", "watch"): watched,
        ("dbtruns", "create"): lambda: runs.create(body),
        ("dbtruns", "patch"): lambda: task_runs(cluster, HERE).patch(name, seen),
        ("configmaps", "get"): lambda: files.content(file["configMap"], file["key"]),
    }
    use = uses[right.resource, right.verb]
    try:
        async with without(stack, right):
            with pytest.raises(Forbidden, match=f'cannot {right.verb} resource "{right.resource}"'):
                await use()
        await use()
    finally:
        await cluster.close()


async def tells_gaps(stack: Stack, right: Right) -> None:
    """An asset that names a mirror asks it what it has deleted."""
    kubeconfig = await stack.plane.kubeconfig_for(HERE, "airflow")
    mirror = {"apiVersion": API_VERSION, "kind": "DbtRunMirror", "metadata": {"name": "asked"}}
    await stack.apply(mirror | {"spec": {"select": {"jobIds": [1]}}})
    async with connect(ClusterConfig(config_file=str(kubeconfig))) as cluster:
        async with without(stack, right):
            with pytest.raises(Forbidden, match='cannot get resource "dbtrunmirrors"'):
                await read_mirror(cluster, HERE, "asked")
        assert (await read_mirror(cluster, HERE, "asked")).metadata.deletion_timestamp is None
    await stack.kubectl("delete", "drm", "asked")


NEEDED: Final[dict[Right, Callable[[Stack, Right], Awaitable[None]]]] = {
    Right("dbtrun", "dbtruns", "get"): looks_again,
    Right("dbtrun", "dbtruns", "list"): begins,
    Right("dbtrun", "dbtruns", "watch"): begins,
    Right("dbtrun", "dbtruns", "create"): mirrors,
    Right("dbtrun", "dbtruns", "patch"): takes_on,
    Right("dbtrun", "dbtruns", "delete"): tidies_up,
    Right("dbtrun", "dbtruns/status", "patch"): takes_on,
    Right("dbtrun", "dbtrunmirrors", "list"): mirrors,
    Right("dbtrun", "dbtrunmirrors", "watch"): mirrors,
    Right("dbtrun", "dbtrunmirrors/status", "patch"): mirrors,
    Right("dbtrun", "events", "create"): reports,
    Right(DELETIONS, "dbtruns", "get"): lets_go,
    Right(DELETIONS, "dbtruns", "list"): lets_go,
    Right(DELETIONS, "dbtruns", "patch"): lets_go,
    Right("dbtrun-artifacts", "configmaps", "create"): keeps_files,
    Right("dbtrun-artifacts", "configmaps", "get"): adds_files,
    Right("dbtrun-artifacts", "configmaps", "patch"): adds_files,
    Right("dbtrun-connections", "secrets", "get"): reads_connections,
    Right("dbtrun-default-connection", "secrets", "get"): finds_the_default,
    Right("dbtrun-leader", "leases", "create"): begins,
    Right("dbtrun-leader", "leases", "get"): begins,
    Right("dbtrun-leader", "leases", "update"): begins,
    Right("dbtrun-airflow", "dbtruns", "get"): serves_airflow,
    Right("dbtrun-airflow", "dbtruns", "list"): serves_airflow,
    Right("dbtrun-airflow", "dbtruns", "watch"): serves_airflow,
    Right("dbtrun-airflow", "dbtruns", "create"): serves_airflow,
    Right("dbtrun-airflow", "dbtruns", "patch"): serves_airflow,
    Right("dbtrun-airflow", "configmaps", "get"): serves_airflow,
    Right("dbtrun-airflow", "dbtrunmirrors", "get"): tells_gaps,
}
"""Each right of the chart, and what does not work without it."""


def given(objects: list[dict[str, Any]]) -> set[Right]:
    roles = [each for each in objects if each["kind"] in ("Role", "ClusterRole")]
    return {
        Right(role["metadata"]["name"], resource, verb)
        for role in roles
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_the_chart_gives_these_rights_and_no_other(helm: Helm, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(VALUES))
    assert given(helm.objects(f"--values={values}", f"--namespace={HERE}")) == NEEDED.keys()


@pytest.mark.parametrize("mode", ["deployment", "sidecar"])
def test_a_watcher_has_the_same_rights_in_every_mode(helm: Helm, tmp_path: Path, mode: str) -> None:
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(VALUES | {"mode": mode}))
    assert given(helm.objects(f"--values={values}", f"--namespace={HERE}")) == NEEDED.keys()


def test_a_watcher_of_the_whole_cluster_has_them_too(helm: Helm) -> None:
    wide = given(
        helm.objects("--set=watchAllNamespaces=true,rbac.aggregate=false,artifacts.namespaces={dbtrun-system}")
    )
    renamed = {Right("dbtrun", *right[1:]) if ":" in right.role else right for right in wide}
    own = {"dbtrun", "dbtrun-artifacts", "dbtrun-connections", "dbtrun-leader"}
    assert renamed == {right for right in NEEDED if right.role in own}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("right", NEEDED, ids=lambda right: "-".join(right).replace("/", "-"))
async def test_no_right_is_superfluous(stack: Stack, right: Right) -> None:
    twice = right.role == "dbtrun" and Right(DELETIONS, *right[1:]) in NEEDED
    async with unbound(stack, "clusterrolebinding", DELETIONS) if twice else contextlib.nullcontext():
        await NEEDED[right](stack, right)


# ── a right that is revoked while runs are live ──

WRITES: Final = [Right("dbtrun", "dbtruns/status", "patch"), Right("dbtrun", "dbtruns", "patch")]
CANCELLED: Final = 30
"""dbt Cloud's status code."""


async def running(stack: Stack, name: str, **spec: Any) -> Own:
    own = Own(stack, name)
    await own.apply("endless", **spec)
    await own.reaches("Running")
    return own


async def cancelled_in_dbt_cloud(own: Own) -> None:
    async def over() -> bool:
        return await own.run_statuses() == [CANCELLED]

    await until(over, 60, f"the run of {own.name} is cancelled in dbt Cloud", pause=0.2)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("right", WRITES, ids=lambda right: right.resource.replace("/", "-"))
async def test_a_stop_reaches_dbt_cloud_without_the_right_to_write(stack: Stack, right: Right) -> None:
    slug = right.resource.replace("/", "-")
    asked, deleted = [await running(stack, f"{slug}-{name}") for name in ("asked", "deleted")]
    late = await running(stack, f"{slug}-late", activeDeadlineSeconds=3600)
    async with unbound(stack, "clusterrolebinding", DELETIONS):
        async with without(stack, right):
            said = len(stack.watcher.text())
            await asked.patch(cancel=True)
            await late.patch(activeDeadlineSeconds=1)
            await stack.delete(deleted.name)
            for own in (asked, late, deleted):
                await cancelled_in_dbt_cloud(own)
            await stack.watcher.says(right.refused, after=said)
            assert (await deleted.status())["phase"] != "Succeeded"
        assert (await asked.reaches("Cancelled"))["reason"] == "CancelRequested"
        assert (await late.reaches("TimedOut"))["reason"] == "ActiveDeadlineExceeded"
        await stack.gone(deleted.name)


@pytest.mark.asyncio(loop_scope="module")
async def test_a_live_run_is_followed_and_stopped_without_the_right_to_read_its_connection(stack: Stack) -> None:
    ends, stops = await running(stack, "secretless-ends"), await running(stack, "secretless-stops")
    async with without(stack, Right("dbtrun-default-connection", "secrets", "get")):
        await ends.finish(10)
        await ends.reaches("Succeeded")
        await stops.patch(cancel=True)
        await cancelled_in_dbt_cloud(stops)
        await stops.reaches("Cancelled")


@pytest.mark.asyncio(loop_scope="module")
async def test_a_live_run_ends_right_without_the_right_to_report_events(stack: Stack) -> None:
    own = await running(stack, "eventless")
    async with without(stack, Right("dbtrun", "events", "create")):
        said = len(stack.watcher.text())
        await own.patch(cancel=True)
        await own.reaches("Cancelled")
        await stack.watcher.says(Right("dbtrun", "events", "create").refused, after=said)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("verb", ["list", "watch"])
async def test_a_watcher_that_may_not_read_on_says_so_and_goes_on_with_what_it_knows(
    stack: Stack, tmp_path: Path, verb: str
) -> None:
    right = Right("dbtrun", "dbtruns", verb)
    async with through_a_proxy(stack, tmp_path) as (watcher, proxy):
        own = await running(stack, f"unread-{verb}", activeDeadlineSeconds=3600)
        async with unbound(stack, "clusterrolebinding", DELETIONS):
            async with without(stack, right):
                said = len(watcher.text())
                proxy.cut()  # a watch that is open was allowed when it began
                await watcher.says(right.refused, after=said)
                await own.finish(10)
                await own.reaches("Succeeded")
                await applied(stack, f"unseen-{verb}")
            await stack.reaches(f"unseen-{verb}", "Succeeded")


@contextlib.asynccontextmanager
async def through_a_proxy(stack: Stack, folder: Path) -> AsyncIterator[tuple[Program, Proxy]]:
    """Another watcher in the place of the one that runs, whose connections to the API server can be cut."""
    server = urlsplit(stack.plane.server)
    async with Proxy.up(server.hostname or "", server.port or 443) as proxy:
        await stack.watcher.stop()
        watcher = stack.another_watcher(f"proxied-{folder.name}")
        known = Path(watcher.env["DBTRUN_KUBECONFIG"])
        watcher.env["DBTRUN_KUBECONFIG"] = str(kubeconfig_to(f"https://127.0.0.1:{proxy.port}", known, folder))
        watcher.start()
        try:
            yield watcher, proxy
        finally:
            await watcher.stop()
            stack.watcher.start()


@pytest.mark.asyncio(loop_scope="module")
async def test_a_watcher_that_may_not_renew_its_lease_ends_and_one_that_may_goes_on(stack: Stack) -> None:
    right = Right("dbtrun-leader", "leases", "update")
    own = await running(stack, "leaseless")
    said = len(stack.watcher.text())
    async with without(stack, right):
        assert await stack.watcher.wait(90) == 1
        assert "The Lease was lost" in stack.watcher.text()[said:]
        stack.watcher.start()  # as Kubernetes does
        await stack.watcher.says(right.refused, after=said)
        await own.patch(cancel=True)
    await own.reaches("Cancelled")
    assert await own.run_statuses() == [CANCELLED]
