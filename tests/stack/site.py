"""A namespace with DbtRuns and a dbt Cloud for them; its watcher runs as a process or in Pods."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dbtrun.api import API_VERSION, CONNECTION_SECRET_TYPE, KIND, PLURAL
from tests.controlplane import ControlPlane
from tests.stack.dbt import JOBS, DbtCloud
from tests.stack.waiting import until

ROOT: Final = Path(__file__).parents[2]
LEASE: Final = "dbtrun"
CRD: Final = ROOT / "deploy/crd/dbtrun.dev_dbtruns.yaml"
MIRRORS_CRD: Final = ROOT / "deploy/crd/dbtrun.dev_dbtrunmirrors.yaml"


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

    async def apply(self, *objects: Mapping[str, Any]) -> None:
        listed = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        await self.kubectl("apply", "-f", "-", input=json.dumps(listed))

    async def patch(self, name: str, spec: Mapping[str, Any]) -> None:
        await self.kubectl("patch", "dr", name, "--type=merge", "-p", json.dumps({"spec": spec}))

    async def get(self, name: str) -> dict[str, Any]:
        found = await self._look(name)
        assert found is not None, f"there is no DbtRun {name}"
        return found

    async def _look(self, name: str) -> dict[str, Any] | None:
        # Not kubectl: tests ask several times a second, and each would be a process.
        return await self.plane.read(f"/apis/{API_VERSION}/namespaces/{self.namespace}/{PLURAL}/{name}")

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
        kinds = "dr,events.events.k8s.io,deployments,configmaps,leases"
        # A bench leaves 50,000 objects, which kubectl prints in minutes.
        objects = await self.kubectl("get", kinds, "-o", "json", timeout=900)
        return logs | {"objects": objects}


async def install_crd(plane: ControlPlane) -> None:
    """Installs the CRDs once per control plane and waits until they are served."""
    await plane.kubectl("apply", "--server-side", "-f", str(CRD), "-f", str(MIRRORS_CRD))
    kinds = ("crd/dbtruns.dbtrun.dev", "crd/dbtrunmirrors.dbtrun.dev")
    await plane.kubectl("wait", "--for=condition=Established", *kinds, "--timeout=120s")
