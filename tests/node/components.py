"""What a node is made of, as plain values: addresses, files, configurations. Nothing here does I/O."""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from tests.controlplane.components import NODE_NAME
from tests.node import dns, images

# What kubelet wants of the kernel. boot.sh lays these over /proc/sys, so that the machine's own stay as they are.
SYSCTLS = {
    "kernel/keys/root_maxbytes": 25_000_000,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
}
_ALL_NODES = IPv4Network("10.88.0.0/13")


@dataclass(frozen=True)
class Network:
    """One /24 that the host, the node and its pods share."""

    number: int
    """0 to 2047: which /24 of all nodes' range."""

    @property
    def subnet(self) -> IPv4Network:
        return IPv4Network((int(_ALL_NODES.network_address) + self.number * 256, 24))

    @property
    def host(self) -> IPv4Address:
        return self.subnet[1]

    @property
    def node(self) -> IPv4Address:
        return self.subnet[2]

    @property
    def link(self) -> str:
        """The host's end, at most 15 characters. Two nodes cannot have the same."""
        return f"dbtrun-node{self.number}"


NETWORKS = range(_ALL_NODES.num_addresses // 256)


@dataclass(frozen=True)
class Layout:
    """The files of one node."""

    root: Path

    @property
    def socket(self) -> Path:
        return self.root / "containerd.sock"

    def files(self, network: Network, cgroup: str, plugins: Path, ca: Path, proxy: Path) -> dict[str, str]:
        """Text by name: all that is read inside."""
        root = str(self.root)
        return {
            "resolv.conf": "",  # Of Pods that use the machine's DNS: nothing out there is looked up.
            "containerd.toml": containerd(self, plugins),
            "cni/pods.conflist": json.dumps(cni(root, network)),
            "kubelet.json": json.dumps(kubelet(self, network, cgroup, ca)),
            "kube-proxy.json": json.dumps(kube_proxy(network, proxy)),
        } | {f"sysctl/{name}": f"{value}\n" for name, value in SYSCTLS.items()}


def containerd(layout: Layout, plugins: Path) -> str:
    """Everything in the node's own folder, and no right needed that a container of CI lacks."""
    return f"""
version = 2
root = "{layout.root}/containerd"
state = "{layout.root}/containerd-state"
[grpc]
address = "{layout.socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{images.PAUSE}"
# Without CAP_SYS_RESOURCE runc would fail to lower a score.
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{layout.root}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"""


def cni(root: str, network: Network) -> dict[str, Any]:
    """Pods hang on the bridge that boot.sh makes; who leaves the subnet, for a Service, goes by the node."""
    ranges = [[{"subnet": str(network.subnet), "rangeStart": str(network.subnet[10]), "gateway": str(network.node)}]]
    ipam = {"type": "host-local", "dataDir": f"{root}/addresses", "ranges": ranges, "routes": [{"dst": "0.0.0.0/0"}]}
    bridge = {"type": "bridge", "bridge": "pods", "hairpinMode": True, "ipam": ipam}
    return {"cniVersion": "0.4.0", "name": "pods", "plugins": [bridge]}


def kubelet(layout: Layout, network: Network, cgroup: str, ca: Path) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{layout.socket}",
        "authentication": {"x509": {"clientCAFile": str(ca)}, "anonymous": {"enabled": False}},
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}",
        "clusterDNS": [str(network.host)],
        "clusterDomain": dns.DOMAIN,
        "enforceNodeAllocatable": [],
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "failCgroupV1": False,
        "failSwapOn": False,
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "oomScoreAdj": 0,
        "resolvConf": str(layout.root / "resolv.conf"),
        "volumePluginDir": str(layout.root / "volume-plugins"),
    }


def kube_proxy(network: Network, kubeconfig: Path) -> dict[str, Any]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "bindAddress": str(network.node),
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "clusterCIDR": str(network.subnet),
        # Limits of the whole kernel: leave them alone.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "hostnameOverride": NODE_NAME,
        # An answer between two pods of one bridge would not pass by here otherwise.
        "iptables": {"masqueradeAll": True},
        "mode": "iptables",
        "oomScoreAdj": 0,
    }
