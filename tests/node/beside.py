"""The watcher beside Airflow's triggerer: a namespace with the chart in mode sidecar, and what happens to its pods."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from tests.node import Node, images, official
from tests.node.official import Json
from tests.stack import until
from tests.stack.site import ROOT, Site, install_crd
from tests.stack.stack import SECRET

TRIGGERER, SIDECAR = "triggerer", "dbtrun-watcher"
"""The containers."""
ACCOUNT: Final = "airflow-triggerer"
FOLLOW_SECONDS: Final = 200.0
STAND_IN_PORT: Final = 8099
STAND_IN: Final = f"""
import signal, socket, time
signal.pthread_sigmask(signal.SIG_BLOCK, {{signal.SIGTERM}})
ready = socket.create_server(("", {STAND_IN_PORT}))
print("triggerer runs")
signal.sigwait({{signal.SIGTERM}})
print("triggerer stops")
time.sleep(2)
print("triggerer ends")
"""
# A container's process 1 ignores a signal that it does not handle yet: a pod that is deleted before the program listens
# would stay for its whole grace period.
STAND_IN_READY: Final[Json] = {"tcpSocket": {"port": STAND_IN_PORT}, "periodSeconds": 1}
RESTRICTED: Final = "pod-security.kubernetes.io/enforce=restricted"


class Beside(Site):
    """One namespace, in which only restricted pods are admitted. `async with Beside.up(node, namespace, folder)`."""

    def __init__(self, node: Node, namespace: str, folder: Path) -> None:
        super().__init__(node.plane, namespace, folder)
        self.node, self.values = node, official.values(DBTRUN_CONNECTION_HOSTS=node.host)

    @classmethod
    @contextlib.asynccontextmanager
    async def up(
        cls, node: Node, namespace: str, folder: Path, accounts: Sequence[str] = (ACCOUNT,), **options: Any
    ) -> AsyncIterator[Beside]:
        """All that the page says to do before Airflow's own values change; at the end the namespace goes.

        Args:
            node: where the pods run.
            namespace: Airflow's.
            folder: for files.
            accounts: Airflow's ServiceAccounts, whose tasks and triggers use DbtRuns.
            options: of `DbtCloud.serve`.
        """
        beside = cls(node, namespace, folder)
        await beside.serve(address=node.host, **options)
        try:
            await beside._install(accounts)
            yield beside
            await beside.assert_no_secret_told()
        except Exception as error:
            error.add_note(await beside.watchers_said())
            raise
        finally:
            await asyncio.to_thread(node.plane.delete_namespace_sync, namespace)
            await beside.close()

    async def _install(self, accounts: Sequence[str]) -> None:
        await asyncio.to_thread(self.plane.create_namespace_sync, self.namespace)
        await self.plane.kubectl("label", "namespace", self.namespace, RESTRICTED)
        await self.apply(
            *({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}} for name in accounts)
        )
        await install_crd(self.plane)
        chosen = self.folder / "values.yaml"
        listed = [{"name": name, "namespace": self.namespace} for name in accounts]
        values = {"mode": "sidecar", "crds": {"enabled": False}, "airflow": {"serviceAccounts": listed}}
        await asyncio.to_thread(chosen.write_text, yaml.safe_dump(values))
        await self.plane.helm("install", "dbtrun", str(ROOT / "helm/dbtrun"), "-n", self.namespace, "-f", str(chosen))
        await self.apply(self.secret(SECRET, self.keys()))

    async def watchers_said(self) -> str:
        """What Kubernetes and all containers say."""
        pods = await self.kubectl("get", "pods", "-owide")
        events = await self.kubectl("get", "events", "--sort-by=.lastTimestamp")
        logs = await self.kubectl(
            "logs", "-l", "component=triggerer", "--all-containers", "--prefix", "--tail=15", check=False
        )
        return "\n".join([pods, events[-3000:], logs[-6000:]])

    async def everything_told(self) -> dict[str, str]:
        said = await self.kubectl("logs", "-l", "component=triggerer", "--all-containers", "--tail=-1", check=False)
        return await super().everything_told() | {"pods": said}

    # ── triggerers ──

    async def start(self, replicas: int = 1) -> None:
        """Starts triggerers that do nothing but run, and end a moment after they are told to."""
        container = {
            "image": images.WATCHER,
            "imagePullPolicy": "Never",
            "command": ["python", "-uc", STAND_IN],
            "readinessProbe": STAND_IN_READY,
        }
        await self.apply(official.triggerer(self.values, ACCOUNT, container, replicas=replicas))

    async def ready(self, seconds: int = 120) -> None:
        """Waits until every triggerer is as it should be, its watcher too."""
        await self.kubectl(
            "rollout", "status", "statefulset/airflow-triggerer", f"--timeout={seconds}s", timeout=seconds + 10
        )

    async def pods(self) -> list[Json]:
        """The triggerers' pods."""
        found = await self.plane.read(f"/api/v1/namespaces/{self.namespace}/pods?labelSelector=component%3Dtriggerer")
        assert found is not None
        return list(found["items"])

    async def pod(self, name: str) -> Json | None:
        return await self.plane.read(f"/api/v1/namespaces/{self.namespace}/pods/{name}")

    async def until_held(self, seconds: float = 90.0) -> str:
        """Waits until a watcher holds the Lease, and returns its identity."""
        return await until(self.holder, seconds, "a holder of the Lease", pause=0.1)

    async def last_words(self, pod: str) -> list[str]:
        """Deletes a pod, as an update would, and returns what its containers said, in its order."""
        follow = ("logs", pod, "--follow", "--timestamps")
        logs = [
            asyncio.create_task(self.kubectl(*follow, "-c", name, timeout=FOLLOW_SECONDS))
            for name in (TRIGGERER, SIDECAR)
        ]
        await self.kubectl("delete", "pod", pod, "--timeout=150s", timeout=FOLLOW_SECONDS)
        # Each line begins with an instant of the node's clock.
        return sorted(line for log in await asyncio.gather(*logs) for line in log.splitlines())

    async def exec(self, pod: str, container: str, *command: str) -> str:
        return await self.kubectl("exec", pod, "-c", container, "--", *command)

    def container(self, pod: Json) -> str:
        """The id of a pod's watcher, for the node."""
        return str(state_of(pod, SIDECAR)["containerID"]).removeprefix("containerd://")

    def process(self, pod: Json) -> int:
        """A pod's watcher, as this machine knows it."""
        return self.node.processes_of(self.container(pod))[0]

    async def until_restarted(self, pod: Json, seconds: float = 200.0) -> None:
        """Waits until the watcher in a pod was restarted."""

        async def restarted() -> bool:
            now = await self.pod(pod["metadata"]["name"])
            return now is not None and state_of(now, SIDECAR)["restartCount"] > state_of(pod, SIDECAR)["restartCount"]

        await until(restarted, seconds, "the watcher was restarted", pause=0.3)


def pod_of(identity: str) -> str:
    """The pod of a holder of the Lease."""
    return identity.partition("_")[0]


def state_of(pod: Json, container: str) -> Json:
    """A container's status; a sidecar is among the init containers. Empty: the kubelet has not told yet."""
    status = pod["status"]
    every = (*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ()))
    return next((dict(each) for each in every if each["name"] == container), {})
