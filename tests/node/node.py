"""One running node: kubelet, containerd and kube-proxy in namespaces of their own, on a control plane of their own.

A machine that lent itself to a node directly would keep bridges, mounts, rules and containers of every run that is
killed. So all of it hangs on one process, `boot.sh`, which is process 1 of its own PID, mount and network namespaces:
when it dies, the kernel ends the rest. Outside there are one link, which goes with the network namespace, one cgroup
and one folder, which a supervisor removes, after `kill -9` of whoever runs the tests too.
"""

from __future__ import annotations

import json
import random
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from ipaddress import IPv4Address, ip_interface
from pathlib import Path
from typing import TYPE_CHECKING

from tests.controlplane import ControlPlane, ControlPlaneError, build
from tests.controlplane.components import NODE_NAME
from tests.controlplane.opened import Opened
from tests.controlplane.supervisor import Supervisor
from tests.node import images, needs
from tests.node.cgroups import Cgroup
from tests.node.components import NETWORKS, Layout, Network
from tests.node.dns import Names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_BOOT = Path(__file__).with_name("boot.sh")
START_SECONDS = 120.0
_POLL_SECONDS = 0.05
_LINK_TRIES = 8
_MEMORY_LIMITS = ("memory.max", "memory.limit_in_bytes")
"""The file that limits a cgroup's memory: of v2, and of v1."""


class NodeError(ControlPlaneError):
    """The node could not be started or used."""


class Node(Opened):
    """`with Node() as node`: a control plane, `node.plane`, whose Pods run. Several may run side by side.

    Needs Linux and root (`needs.complaint`). What listens on `host` is reached from Pods, and Pods from this machine.
    """

    def __init__(self) -> None:
        self._cgroup = Cgroup()

    # What users need to know of it.

    @property
    def host(self) -> str:
        """This machine's address for Pods."""
        return str(self._network.host)

    @property
    def workdir(self) -> Path:
        return self._layout.root

    @property
    def traces(self) -> dict[str, str]:
        """What this node has outside of its namespaces, by kind."""
        return {"cgroup": self._cgroup.name, "link": self._network.link, "folder": str(self.workdir)}

    # Use.

    def load(self, archive: Path) -> None:
        """Import an image (an OCI archive with its name, as `images.built` gives) under that name."""
        self.run("ctr", f"--address={self._layout.socket}", "--namespace=k8s.io", "images", "import", str(archive))

    def run(self, *argv: str) -> str:
        """Run a command of this machine inside of the node's namespaces and return what it prints.

        Raises:
            NodeError: it failed; what it said is in the message.
        """
        inside = ["nsenter", f"--target={self._init}", "--mount", "--net", "--pid", *argv]
        answer = subprocess.run(inside, env=self._env, capture_output=True, text=True, check=False)
        if answer.returncode:
            raise NodeError(f"{' '.join(argv)} ended with {answer.returncode}: {answer.stderr.strip()}")
        return answer.stdout

    def restart_kubelet(self) -> None:
        """Pods live on."""
        self.run("sh", "-c", "kill $(busybox pidof kubelet)")

    def memory_of(self, container: str) -> Path:
        """The cgroup's folder that counts and limits the memory of a container, by its id."""
        return self._cgroup.memory_of(container)

    def processes_of(self, container: str) -> list[int]:
        """The processes of a container, by its id, first its first."""
        return sorted(map(int, (self.memory_of(container) / "cgroup.procs").read_text().split()))

    def limit_memory(self, container: str, more: int) -> None:
        """Give a container so many bytes more than what its processes have, and take its cached files.

        Raises:
            OSError: the kernel refuses, for it cannot take back enough.
        """
        folder = self.memory_of(container)
        kept = re.search(r"^(?:total_rss|anon) (\d+)$", (folder / "memory.stat").read_text(), re.MULTILINE)
        assert kept is not None
        limit = next(folder / name for name in _MEMORY_LIMITS if (folder / name).exists())
        limit.write_text(str(int(kept[1]) + more))

    # Life.

    def open(self) -> None:
        """Raises NodeError with one sentence if this machine lacks something, or with the log of what failed."""
        if complaint := needs.complaint():
            raise NodeError(complaint)
        binaries = build.ensure("kubelet", "kube-proxy")
        pause = images.pause()
        self._layout = Layout(Path(tempfile.mkdtemp(prefix="dbtrun-node-")))
        self._env = {"PATH": needs.path(), "HOME": str(self.workdir), "LANG": "C.UTF-8", "GOMAXPROCS": "2"}
        self._supervisor = Supervisor(self.workdir)
        self._supervisor.at_end(self._cgroup.removal())
        self._cgroup.make()
        self._init = self._boot()
        self._network = self._join_networks()
        self.plane = ControlPlane(address=self.host)
        self.plane.open()
        self._names = self._name_services()
        self._configure(binaries)
        self._wait(self._layout.socket.exists, "containerd.log")
        self.load(pause)
        self._wait(self._is_ready, "kubelet.log")

    def close(self) -> None:
        if hasattr(self, "_names"):
            self._names.close()
        if hasattr(self, "_supervisor"):
            self._supervisor.close()
        if hasattr(self, "plane"):
            self.plane.close()
        if hasattr(self, "_layout"):
            shutil.rmtree(self.workdir, ignore_errors=True)

    def _boot(self) -> int:
        """Start process 1 of the namespaces and return its id out here."""
        namespaces = ["unshare", "--mount", "--net", "--pid", "--ipc", "--uts", "--fork", "--kill-child"]
        argv = [*namespaces, "bash", str(_BOOT), str(self.workdir)]
        unshare = self._supervisor.start("node", argv, self._env, self.workdir / "boot.log")
        children = Path(f"/proc/{unshare}/task/{unshare}/children")
        self._wait(lambda: bool(children.read_text().split()), "boot.log")
        return int(children.read_text().split()[0])

    def _join_networks(self) -> Network:
        """Make the link between here and the node, in a subnet that nothing else here uses."""
        for number in random.sample(NETWORKS, _LINK_TRIES):
            network = Network(number)
            peer = ["type", "veth", "peer", "name", "eth0", "netns", str(self._init)]
            if _used(network) or not _ip("link", "add", network.link, *peer):
                continue
            _ip("address", "add", f"{network.host}/{network.subnet.prefixlen}", "dev", network.link)
            _ip("link", "set", network.link, "up")
            return network
        raise NodeError(f"Of {_LINK_TRIES} subnets that were tried none was free.")

    def _configure(self, binaries: Mapping[str, Path]) -> None:
        plane = self.plane
        plugins = needs.cni_plugins()
        assert plugins is not None
        proxy = plane.kubeconfig_of("system:kube-proxy")
        files = self._layout.files(self._network, self._cgroup.name, plugins, plane.ca, proxy)
        variables = {
            "KUBELET": binaries["kubelet"],
            "KUBE_PROXY": binaries["kube-proxy"],
            "KUBELET_KUBECONFIG": plane.kubeconfig_of(f"system:node:{NODE_NAME}"),
            "NODE_NAME": NODE_NAME,
            "NODE_ADDRESS": self._network.node,
            "PREFIX": self._network.subnet.prefixlen,
        }
        files["node.env"] = "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in variables.items())
        for name, text in files.items():
            path = self.workdir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (self.workdir / "configured").touch()

    def _name_services(self) -> Names:
        try:
            return Names(self.host, self._service)
        except OSError as error:
            raise NodeError(f"Something else answers DNS at every address of this machine: {error}.") from None

    def _service(self, namespace: str, name: str) -> IPv4Address | None:
        found = self.plane.read_sync(f"/api/v1/namespaces/{namespace}/services/{name}")
        return IPv4Address(found["spec"]["clusterIP"]) if found else None

    def _is_ready(self) -> bool:
        listed = self.plane.kubectl_sync("get", "nodes", "-ojson")
        for node in json.loads(listed.stdout)["items"]:
            conditions = {each["type"]: each["status"] for each in node["status"].get("conditions", [])}
            if conditions.get("Ready") == "True" and not node["spec"].get("taints"):
                return True
        return False

    def _wait(self, ready: Callable[[], bool], log: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if self._supervisor.exited():
                raise NodeError(f"The node ended. {self._tail('boot.log')}\n{self._tail(log)}")
            if time.monotonic() > deadline:
                raise NodeError(f"The node was not ready after {START_SECONDS:.0f} s. {self._tail(log)}")
            time.sleep(_POLL_SECONDS)

    def _tail(self, log: str, lines: int = 20) -> str:
        path = self.workdir / log
        text = path.read_text(errors="replace").splitlines() if path.exists() else []
        return "\n".join([f"The end of {log}:", *text[-lines:]])


def _ip(*argv: str) -> bool:
    done = subprocess.run(["ip", *argv], env={"PATH": needs.path()}, capture_output=True, check=False)
    return done.returncode == 0


def _used(network: Network) -> bool:
    """An address of this machine is in it, or in a subnet around it."""
    shown = subprocess.run(
        ["ip", "-json", "-4", "address"], env={"PATH": needs.path()}, capture_output=True, check=True
    )
    here = [each for link in json.loads(shown.stdout) for each in link["addr_info"]]
    return any(ip_interface(f"{at['local']}/{at['prefixlen']}").network.overlaps(network.subnet) for at in here)
