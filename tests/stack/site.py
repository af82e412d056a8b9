"""A namespace with DbtRuns and a dbt Cloud for them; its watcher runs as a process or in Pods."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import httpx

from dbtrun.api import API_VERSION, CONNECTION_SECRET_TYPE, KIND, PLURAL
from tests.controlplane import ControlPlane, ControlPlaneError
from tests.stack.dbt import JOBS, DbtCloud
from tests.stack.waiting import until

ROOT: Final = Path(__file__).parents[2]
LEASE: Final = "dbtrun"
CRD: Final = ROOT / "deploy/crd/dbtrun.dev_dbtruns.yaml"
MIRRORS_CRD: Final = ROOT / "deploy/crd/dbtrun.dev_dbtrunmirrors.yaml"
CRDS: Final = ("dbtruns.dbtrun.dev", "dbtrunmirrors.dbtrun.dev")
LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"


def dbt_run(name: str, job: str | None = "success", /, **spec: Any) -> dict[str, Any]:
    """A DbtRun manifest."""
    if job is not None and "runId" not in spec:
        spec = {"job": {"id": JOBS[job]}} | spec
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name},
        "spec": {"pollIntervalSeconds": 5} | spec,
    }


def collection_of(body: Mapping[str, Any], namespace: str | None = None) -> str:
    """The path where the object is created: in this namespace, if it names none itself."""
    version, namespace = body["apiVersion"], body["metadata"].get("namespace", namespace)
    kind = body["kind"].lower()
    plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
    where = f"namespaces/{namespace}/" if namespace else ""
    return f"/{'apis' if '/' in version else 'api'}/{version}/{where}{plural}"


class Site(DbtCloud):
    """What people and tests do in the namespace, whoever watches it."""

    def __init__(self, plane: ControlPlane, namespace: str, folder: Path) -> None:
        super().__init__(folder)
        self.plane, self.namespace = plane, namespace

    async def watchers_said(self) -> str:
        """The last lines of the watcher, for the message of a failed test."""
        raise NotImplementedError

    async def kubectl(self, *arguments: str, **options: Any) -> str:
        return (await self.plane.kubectl("-n", self.namespace, *arguments, **options)).stdout

    async def json(self, *arguments: str) -> Any:
        return json.loads(await self.kubectl(*arguments, "-o", "json"))

    async def apply(self, *objects: Mapping[str, Any], namespace: str | None = None) -> None:
        """As `kubectl apply`, without its process for an object that is new; in the site's namespace by default."""
        namespace = namespace or self.namespace
        left = [each for each in objects if not await self._created(each, namespace)]
        if left:
            listed = {"apiVersion": "v1", "kind": "List", "items": left}
            await self.plane.kubectl("-n", namespace, "apply", "-f", "-", input=json.dumps(listed))

    async def _created(self, body: Mapping[str, Any], namespace: str) -> bool:
        """Creates it as `kubectl apply` does. False: kubectl is to say what is wrong, or to change what is there."""
        meta = body["metadata"]
        if body["kind"] not in ("DbtRun", "DbtRunMirror", "Secret") or set(meta) - {"name", "labels", "annotations"}:
            return False
        applied = {LAST_APPLIED: json.dumps(body)}
        path = collection_of(body, namespace)
        query = "fieldManager=kubectl-client-side-apply&fieldValidation=Strict"
        named = {**meta, "annotations": {**meta.get("annotations", {}), **applied}}
        try:
            await self.plane.change("POST", f"{path}?{query}", {**body, "metadata": named})
        except (ControlPlaneError, httpx.TransportError):
            return False
        return True

    async def patch(self, name: str, spec: Mapping[str, Any]) -> None:
        """As `kubectl patch --type=merge`, without its process."""
        path = f"{self._path(name)}?fieldManager=kubectl-patch"
        await self.plane.change("PATCH", path, {"spec": spec}, "application/merge-patch+json")

    async def delete(self, name: str) -> None:
        """As `kubectl delete --wait=false`, without its process."""
        await self.plane.change("DELETE", self._path(name), {"propagationPolicy": "Background"})

    async def get(self, name: str) -> dict[str, Any]:
        found = await self._look(name)
        assert found is not None, f"there is no DbtRun {name}"
        return found

    async def _look(self, name: str) -> dict[str, Any] | None:
        # Not kubectl: tests ask several times a second, and each would be a process.
        return await self.plane.read(self._path(name))

    def _path(self, name: str) -> str:
        return f"/apis/{API_VERSION}/namespaces/{self.namespace}/{PLURAL}/{name}"

    async def status(self, name: str) -> dict[str, Any]:
        status = (await self.get(name)).get("status", {})
        assert isinstance(status, dict)
        return status

    async def reaches(self, name: str, *phases: str, seconds: float = 120.0, **fields: Any) -> dict[str, Any]:
        """The status once it is in one of the phases and has these fields."""

        async def there() -> dict[str, Any] | None:
            status = await self.status(name)
            told = status.get("phase") in phases and all(status.get(key) == value for key, value in fields.items())
            return status if told else None

        try:
            return await until(there, seconds, f"{name} in {phases} with {fields}", pause=0.2)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{await self.status(name)}\n{await self.watchers_said()}") from None

    async def gone(self, name: str, seconds: float = 120.0) -> None:
        async def missing() -> bool:
            return await self._look(name) is None

        await until(missing, seconds, f"{name} gone", pause=0.2)

    async def events(self, name: str) -> list[tuple[str, str]]:
        """Reason and note of the object's Events, oldest first."""
        path = f"/apis/events.k8s.io/v1/namespaces/{self.namespace}/events?fieldSelector=regarding.name%3D{name}"
        listed = await self.plane.read(path)
        assert listed is not None
        return [
            (item["reason"], item["note"]) for item in sorted(listed["items"], key=lambda item: str(item["eventTime"]))
        ]

    def secret(self, name: str, keys: Mapping[str, str], kind: str = CONNECTION_SECRET_TYPE) -> dict[str, Any]:
        data = {key: b64encode(value.encode()).decode() for key, value in keys.items()}
        return {"apiVersion": "v1", "kind": "Secret", "type": kind, "metadata": {"name": name}, "data": data}

    # ── secrets ──

    async def holder(self) -> str | None:
        """The identity of the watcher that holds the Lease; None: it is free."""
        lease = await self.plane.read(f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases/{LEASE}")
        return (lease or {}).get("spec", {}).get("holderIdentity") or None

    async def assert_no_secret_told(self) -> None:
        """The token stands nowhere that a person or a program can read without the right to read Secrets."""
        told = [name for name, text in (await self.everything_told()).items() if self.token in text]
        assert not told, f"the token stands in {told}"

    async def everything_told(self) -> dict[str, str]:
        """All that was said: logs, objects, Events."""
        logs = {str(path.name): path.read_text(errors="replace") for path in self.folder.glob("*.log")}
        kinds = {f"apis/{API_VERSION}": PLURAL, "apis/events.k8s.io/v1": "events", "apis/apps/v1": "deployments"}
        kinds |= {"api/v1": "configmaps", "apis/coordination.k8s.io/v1": "leases"}
        paths = [f"/{group}/namespaces/{self.namespace}/{plural}" for group, plural in kinds.items()]
        return logs | {path: await self._listed(path) for path in paths}

    async def _listed(self, path: str) -> str:
        """All objects of a kind, page by page, as text."""
        texts, token = [], ""
        while page := await self.plane.read(f"{path}?limit=500&continue={quote(token)}"):
            texts.append(json.dumps(page))
            token = page["metadata"].get("continue", "")
            if not token:
                break
        return "".join(texts)


_installed: Final[dict[str, list[Any]]] = {}
"""By the API server's address: the CRDs as they were once they had been installed."""


async def install_crd(plane: ControlPlane) -> None:
    """Installs the CRDs, unless they are there as this left them, and waits until they are served."""
    if None not in (now := await _versions(plane)) and now == _installed.get(plane.server):
        return
    await plane.kubectl("apply", "--server-side", "-f", str(CRD), "-f", str(MIRRORS_CRD))
    names = [f"crd/{name}" for name in CRDS]
    await plane.kubectl("wait", "--for=condition=Established", *names, "--timeout=120s")
    _installed[plane.server] = await _versions(plane)


async def _versions(plane: ControlPlane) -> list[Any]:
    """Of each CRD what changes with its spec, or with another one in its place; None: it is missing, or goes."""
    found = [await plane.read(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}") for name in CRDS]
    metas = [each["metadata"] if each else {"deletionTimestamp": ""} for each in found]
    return [None if "deletionTimestamp" in meta else (meta["uid"], meta["generation"]) for meta in metas]
