"""What the API server says of the namespace, its watchers, the caller's rights and the connection. Changes nothing."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import msgspec

from dbtrun.api import API_VERSION, GROUP, KIND, MIRROR_LABEL, PLURAL, VERSION
from dbtrun.api.fields import lacking
from dbtrun.api.mirrors import MIRROR_PLURAL
from dbtrun.cli.cluster import Api
from dbtrun.cli.dbtcloud import pause
from dbtrun.cli.mirrors.view import Mirror
from dbtrun.kube.errors import KubeError, NotFound, NotInstalled
from dbtrun.kube.paths import api_path
from dbtrun.kube.runs import PREFIX

T = TypeVar("T")
VERBS: Final = ("get", "list", "watch", "create", "patch", "delete")
"""What a user does with DbtRuns."""
MAX_WATCHERS: Final = 3
"""Watchers that are looked at."""
OURS: Final = "app.kubernetes.io/name=dbtrun"
LEASE_LOOKS: Final = (2.0, 3.0, 5.0, 7.0)
"""Seconds between looks at a Lease. Its holder renews it every two seconds; a Lease lasts 15 by default."""
SILENT: Final = 60.0
"""Seconds after which an object without a status was overlooked."""
LEASE_NAME: Final = "DBTRUN_LEASE_NAME"
"""The variable by which a container is known as a watcher."""


class Unknown(msgspec.Struct, frozen=True):
    """It could not be read; why."""

    why: str


class Absent(msgspec.Struct, frozen=True):
    """There is no such thing."""


class SecretFacts(msgspec.Struct, frozen=True):
    """A Secret; its data only if the caller may read it."""

    namespace: str
    name: str
    type: str = ""
    data: dict[str, bytes] = {}


class LeaseFacts(msgspec.Struct, frozen=True):
    """Who holds a Lease, and whether it was renewed while it was looked at."""

    holder: str
    renewed: bool


@dataclass(frozen=True, kw_only=True)
class WatcherFacts:
    """A workload that runs a watcher, and its settings."""

    namespace: str
    name: str
    kind: str = "Deployment"
    account: str = "default"
    container: str = "watcher"
    """The container with the watcher."""
    env: Mapping[str, str]
    ready: int = 0
    lease: LeaseFacts | Absent | Unknown

    @property
    def served(self) -> tuple[str, ...]:
        """The namespaces that it serves; empty: all."""
        told = self.env.get("DBTRUN_NAMESPACES", "").strip()
        return () if told == "*" else names(told) or (self.namespace,)

    def serves(self, namespace: str) -> bool:
        """Whether it acts on the DbtRuns there."""
        return not self.served or namespace in self.served

    def lends(self, namespace: str) -> bool:
        """Whether DbtRuns there may use its default connection."""
        told = self.env.get("DBTRUN_CONNECTION_NAMESPACES", "").strip()
        return told == "*" or namespace in (names(told) or (self.namespace,))

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class MirrorFacts(msgspec.Struct, frozen=True):
    """A DbtRunMirror of the namespace."""

    mirror: Mirror
    age: float
    """Seconds since its creation."""
    runs: int | None
    """Its DbtRuns that exist; None: there are too many DbtRuns to count them."""


@dataclass(frozen=True, kw_only=True)
class ClusterFacts:
    """Everything that was asked."""

    namespace: str
    namespace_phase: str | Absent | Unknown
    missing_fields: frozenset[str] | Absent | Unknown
    """What the served CRD lacks; Absent: there is none."""
    rights: Mapping[str, bool]
    """By verb, of DbtRuns in the namespace."""
    watchers: tuple[WatcherFacts, ...]
    everywhere: bool
    """Whether the watchers of all namespaces could be looked for."""
    seen: int = 0
    """DbtRuns of the namespace with a status."""
    unseen: tuple[str, ...] = ()
    """Those without one although they are older than SILENT."""
    mirrors: tuple[MirrorFacts, ...] | Absent | Unknown = ()
    """The DbtRunMirrors of the namespace; Absent: the cluster has no CRD for them."""
    mirrored_by_watcher: bool | None = None
    """Whether the watcher may watch them; None: not known, or there are none."""
    wanted: str | None = None
    """The Secret that the user named as the connection."""
    secret: SecretFacts | Absent | Unknown | None = None
    """The connection; None: none is known."""
    readable_by_watcher: bool | None = None
    """Whether the watcher may read it; None: not known."""
    dry_run: str | None = None
    """Why the API server would refuse a DbtRun; None: it would not."""
    stale_write: str | None = None
    """`refused`, `accepted`, or None: not tried."""

    @property
    def serving(self) -> tuple[WatcherFacts, ...]:
        """The watchers that serve the namespace."""
        return tuple(watcher for watcher in self.watchers if watcher.serves(self.namespace))


def names(text: str) -> tuple[str, ...]:
    """A list of names with commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


class Asker:
    """Requests of which each may fail by itself."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self.requests = 0

    async def json(
        self, method: str, path: str, *, query: Mapping[str, str] | None = None, body: object = None
    ) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            KubeError: there is none.
        """
        self.requests += 1
        answer = await self._api.request(method, path, query=query, body=body)
        try:
            return msgspec.json.decode(answer, type=dict[str, Any])
        except msgspec.MsgspecError:
            raise KubeError("The answer is not one of a Kubernetes API") from None


async def either(work: Awaitable[T]) -> T | Absent | Unknown:
    """What the work returns, or why it did not."""
    try:
        return await work
    except (NotFound, NotInstalled):
        return Absent()
    except KubeError as error:
        return Unknown(str(error))


async def gather(
    asker: Asker,
    namespace: str,
    connection: str | None,
    job_id: int | None,
    *,
    told: Callable[[str], object] = lambda _: None,
) -> ClusterFacts:
    """Asks everything.

    Args:
        asker: sends the requests.
        namespace: where the user wants to run something.
        connection: the Secret that the run is to use; None: the watcher's default connection.
        job_id: the job, for the DbtRun that is created for show.
        told: what is being done, for a progress bar.

    Raises:
        KubeError: the API server cannot be used at all.
    """
    told("The cluster: the API server")
    await asker.json("GET", "/version")
    missing = await _missing(asker)
    home = await either(asker.json("GET", api_path("api/v1", None, "namespaces", namespace)))
    told("The cluster: your rights")
    scope = {"namespace": namespace, "group": GROUP, "resource": PLURAL}
    rights = {
        # None is not known: the API server will say.
        verb: await _review(asker, "selfsubjectaccessreviews", "SelfSubjectAccessReview", {**scope, "verb": verb})
        is not False
        for verb in VERBS
    }
    told("The cluster: the watchers")
    workloads, everywhere = await _workloads(asker, namespace)
    # A cluster may have many: those that serve the namespace come first. Only their Leases are read: whether others
    # work does not matter, and it takes LEASE_LOOKS to find that a Lease is no longer renewed.
    installed = list(map(_watcher, workloads))
    serving = [watcher for watcher in installed if watcher.serves(namespace)][:MAX_WATCHERS]
    others = [watcher for watcher in installed if not watcher.serves(namespace)][: MAX_WATCHERS - len(serving)]
    leases = await asyncio.gather(*(either(_lease(asker, one.namespace, one.env[LEASE_NAME])) for one in serving))
    watchers = (*(replace(one, lease=lease) for one, lease in zip(serving, leases, strict=True)), *others)
    # One page: in a namespace with thousands, the first ones say enough.
    page = await either(asker.json("GET", api_path(PREFIX, namespace, PLURAL), query={"limit": "500"}))
    runs = page.get("items", []) if isinstance(page, dict) else []
    example = str(runs[0]["metadata"]["name"]) if runs else None
    without_status = [run["metadata"] for run in runs if not run.get("status", {}).get("phase")]
    silent_since = datetime.now(UTC) - timedelta(seconds=SILENT)
    mirrors = await either(_mirrors(asker, namespace, page))
    watching = {"namespace": namespace, "verb": "watch", "group": GROUP, "resource": MIRROR_PLURAL}
    told("The cluster: the connection")
    # The Secret that a run would use: that of the user, or the default of the first watcher that has one.
    defaults = ((one.namespace, name) for one in serving if (name := one.env.get("DBTRUN_CONNECTION_SECRET")))
    place = (namespace, connection) if connection is not None else next(defaults, None)
    secret = reading = None
    if place is not None:
        secret = await read_secret(asker, *place)
        reading = {"namespace": place[0], "name": place[1], "verb": "get", "group": "", "resource": "secrets"}
    return ClusterFacts(
        namespace=namespace,
        namespace_phase=str(home.get("status", {}).get("phase", "")) if isinstance(home, dict) else home,
        missing_fields=missing,
        rights=rights,
        watchers=watchers,
        everywhere=everywhere,
        seen=len(runs) - len(without_status),
        unseen=tuple(
            str(metadata["name"])
            for metadata in without_status
            if datetime.fromisoformat(metadata["creationTimestamp"]) < silent_since
        ),
        mirrors=mirrors,
        mirrored_by_watcher=await _watcher_may(asker, namespace, watchers, watching) if mirrors else None,
        wanted=connection,
        secret=secret,
        readable_by_watcher=await _watcher_may(asker, namespace, watchers, reading) if reading else None,
        dry_run=await _dry_run(asker, namespace, connection, job_id) if rights["create"] else None,
        stale_write=await _stale_write(asker, namespace, example) if rights["patch"] and example else None,
    )


async def _missing(asker: Asker) -> frozenset[str] | Absent | Unknown:
    # From the published schema: to read a CRD takes a right for the whole cluster, which few users have.
    served = await either(asker.json("GET", f"/apis/{API_VERSION}"))
    if not isinstance(served, dict):
        return served
    document = await either(asker.json("GET", f"/openapi/v3/apis/{API_VERSION}"))
    if not isinstance(document, dict):
        return Unknown("its schema is not published yet")
    wanted = {"group": GROUP, "version": VERSION, "kind": KIND}
    schemas = document.get("components", {}).get("schemas", {}).values()
    found = next((one for one in schemas if wanted in one.get("x-kubernetes-group-version-kind", ())), None)
    return Unknown("its schema is not published") if found is None else lacking(found)


async def _review(asker: Asker, plural: str, kind: str, attributes: Mapping[str, str], **more: str) -> bool | None:
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": kind,
        "spec": {"resourceAttributes": dict(attributes), **more},
    }
    answer = await either(asker.json("POST", f"/apis/authorization.k8s.io/v1/{plural}", body=body))
    return bool(answer.get("status", {}).get("allowed")) if isinstance(answer, dict) else None


async def _workloads(asker: Asker, namespace: str) -> tuple[list[dict[str, Any]], bool]:
    """The workloads that run watchers, and whether all namespaces could be looked at."""
    found: dict[str, dict[str, Any]] = {}
    everywhere = await either(asker.json("GET", "/apis/apps/v1/deployments", query={"labelSelector": OURS}))
    # Without the label, as a sidecar is in a workload of Airflow's chart. And in this namespace alone, as many users
    # may list no other.
    beside = [
        await either(asker.json("GET", api_path("apis/apps/v1", namespace, plural), query={"limit": "500"}))
        for plural in ("deployments", "statefulsets")
    ]
    for listed, kind in zip((everywhere, *beside), ("Deployment", "Deployment", "StatefulSet"), strict=True):
        for item in listed.get("items", ()) if isinstance(listed, dict) else ():
            if _container(item)[0]:
                found.setdefault(item["metadata"]["uid"], {**item, "kind": kind})
    return list(found.values()), isinstance(everywhere, dict)


def _container(workload: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    """The container of a workload's watcher, and its settings; they are empty if it has none."""
    pod = workload.get("spec", {}).get("template", {}).get("spec", {})
    # A native sidecar is one of the initContainers, with `restartPolicy: Always`.
    for container in (*pod.get("containers", ()), *pod.get("initContainers", ())):
        env = {item["name"]: str(item.get("value", "")) for item in container.get("env", ()) if "name" in item}
        if LEASE_NAME in env:
            return str(container["name"]), env
    return "", {}


def _watcher(workload: Mapping[str, Any]) -> WatcherFacts:
    metadata = workload["metadata"]
    container, env = _container(workload)
    return WatcherFacts(
        namespace=metadata["namespace"],
        name=metadata["name"],
        kind=workload["kind"],
        account=workload["spec"]["template"]["spec"].get("serviceAccountName", "default"),
        container=container,
        env=env,
        ready=int(workload.get("status", {}).get("readyReplicas", 0)),
        lease=Unknown("its Lease was not looked at"),
    )


async def _lease(asker: Asker, namespace: str, name: str) -> LeaseFacts:
    """The Lease. It counts by its changes, not by its times: this machine's clock may be wrong."""
    path = api_path("apis/coordination.k8s.io/v1", namespace, "leases", name)
    first = await asker.json("GET", path)
    holder = str(first.get("spec", {}).get("holderIdentity") or "")
    for seconds in LEASE_LOOKS if holder else ():
        await pause(seconds)
        now = await asker.json("GET", path)
        if now["metadata"]["resourceVersion"] != first["metadata"]["resourceVersion"]:
            return LeaseFacts(str(now.get("spec", {}).get("holderIdentity") or ""), renewed=True)
    return LeaseFacts(holder, renewed=False)


async def read_secret(asker: Asker, namespace: str, name: str) -> SecretFacts | Absent | Unknown:
    """The Secret."""
    found = await either(asker.json("GET", api_path("api/v1", namespace, "secrets", name)))
    if not isinstance(found, dict):
        return found
    try:
        data = {key: base64.b64decode(value) for key, value in (found.get("data") or {}).items()}
    except (binascii.Error, ValueError):
        return Unknown("The Secret is not base64")
    return SecretFacts(namespace, name, str(found.get("type", "")), data)


async def _mirrors(asker: Asker, namespace: str, runs: Mapping[str, Any] | Absent | Unknown) -> tuple[MirrorFacts, ...]:
    listed = await asker.json("GET", api_path(PREFIX, namespace, MIRROR_PLURAL), query={"limit": "500"})
    whole = isinstance(runs, dict) and not runs.get("metadata", {}).get("continue")
    items = runs.get("items", []) if isinstance(runs, dict) else []
    made = Counter(item["metadata"].get("labels", {}).get(MIRROR_LABEL) for item in items)
    now = datetime.now(UTC)
    try:
        mirrors = msgspec.convert(listed.get("items") or [], list[Mirror])
    except msgspec.ValidationError as error:
        raise KubeError(f"a DbtRunMirror cannot be read: {error}") from None
    return tuple(
        MirrorFacts(
            mirror,
            (now - (mirror.metadata.creation_timestamp or now)).total_seconds(),
            made[mirror.name] if whole else None,
        )
        for mirror in mirrors
    )


async def _watcher_may(
    asker: Asker, namespace: str, watchers: tuple[WatcherFacts, ...], attributes: Mapping[str, str]
) -> bool | None:
    for watcher in watchers:
        if watcher.serves(namespace):
            user = f"system:serviceaccount:{watcher.namespace}:{watcher.account}"
            return await _review(asker, "subjectaccessreviews", "SubjectAccessReview", attributes, user=user)
    return None


async def _dry_run(asker: Asker, namespace: str, connection: str | None, job_id: int | None) -> str | None:
    """Why a DbtRun would be refused. With dryRun the API server checks everything and stores nothing."""
    spec: dict[str, Any] = {"job": {"id": job_id or 1}}
    if connection is not None:
        spec["connectionRef"] = {"name": connection}
    body = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"generateName": "doctor-"}, "spec": spec}
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    answer = await either(asker.json("POST", api_path(PREFIX, namespace, PLURAL), query=query, body=body))
    return answer.why if isinstance(answer, Unknown) else None


async def _stale_write(asker: Asker, namespace: str, example: str) -> str:
    """Whether a write with an old version is refused, on which exactly-once starting rests. dryRun: nothing changes."""
    # Version 1 is older than any object: etcd counts its revisions for the whole cluster.
    body = {"metadata": {"resourceVersion": "1", "annotations": {f"{GROUP}/doctor": "dry-run"}}}
    path = api_path(PREFIX, namespace, PLURAL, example)
    answer = await either(asker.json("PATCH", path, query={"dryRun": "All"}, body=body))
    return "accepted" if isinstance(answer, dict) else "refused"
