"""What a control plane is made of, as plain values: files, ports, command lines, kubeconfigs. Nothing here does I/O."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LOOPBACK = "127.0.0.1"
# Names under which clients may know the API server; the last is the first address of the Service range.
SERVER_NAMES = (LOOPBACK, "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "10.0.0.1")
_INHERITED = ("PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "GOMAXPROCS")
# The controllers of what people see: each other one watches too, in every control plane of a test run.
_CONTROLLERS = (
    "clusterrole-aggregation-controller",
    "deployment-controller",
    "garbage-collector-controller",
    "namespace-controller",
    "replicaset-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
)
# Go's garbage collector: tests lack processors, not memory.
_COLLECTED_SELDOM = {"GOGC": "1000", "GOMEMLIMIT": "1GiB"}


@dataclass(frozen=True)
class Layout:
    """The files of one control plane."""

    root: Path

    @property
    def home(self) -> Path:
        """The HOME of everything we start, in place of the user's."""
        return self.root / "home"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def ca(self) -> Path:
        return self.root / "ca.crt"

    @property
    def server_certificate(self) -> Path:
        return self.root / "server.crt"

    @property
    def server_key(self) -> Path:
        return self.root / "server.key"

    @property
    def account_key(self) -> Path:
        """Signs the tokens of ServiceAccounts."""
        return self.root / "service-accounts.key"

    @property
    def tokens(self) -> Path:
        return self.root / "tokens.csv"

    @property
    def kubeconfig(self) -> Path:
        return self.root / "admin.kubeconfig"

    @property
    def data(self) -> Path:
        return self.root / "etcd"

    def log(self, component: str) -> Path:
        return self.logs / f"{component}.log"

    def kubeconfig_for(self, namespace: str, account: str) -> Path:
        return self.root / f"{namespace}.{account}.kubeconfig"


@dataclass(frozen=True)
class Ports:
    etcd: int
    apiserver: int

    @property
    def etcd_url(self) -> str:
        return f"http://{LOOPBACK}:{self.etcd}"

    @property
    def server(self) -> str:
        return f"https://{LOOPBACK}:{self.apiserver}"


def etcd(binary: Path, layout: Layout, ports: Ports, name: str) -> list[str]:
    """`name` tells this etcd from another one that took the port first."""
    peer = f"http://{LOOPBACK}:0"  # A cluster of one: nobody calls it, so any port will do.
    return [
        str(binary),
        f"--name={name}",
        f"--data-dir={layout.data}",
        f"--listen-client-urls={ports.etcd_url}",
        f"--advertise-client-urls={ports.etcd_url}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster={name}={peer}",
        "--unsafe-no-fsync",  # The data lives as long as the test run.
        "--log-level=warn",
    ]


def apiserver(binary: Path, layout: Layout, ports: Ports) -> list[str]:
    return [
        str(binary),
        f"--etcd-servers={ports.etcd_url}",
        f"--bind-address={LOOPBACK}",
        f"--advertise-address={LOOPBACK}",
        f"--secure-port={ports.apiserver}",
        f"--tls-cert-file={layout.server_certificate}",
        f"--tls-private-key-file={layout.server_key}",
        f"--client-ca-file={layout.ca}",
        f"--token-auth-file={layout.tokens}",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={layout.account_key}",
        f"--service-account-signing-key-file={layout.account_key}",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--endpoint-reconciler-type=none",
        "--allow-privileged=true",
    ]


def controller_manager(binary: Path, layout: Layout) -> list[str]:
    return [
        str(binary),
        f"--kubeconfig={layout.kubeconfig}",
        f"--root-ca-file={layout.ca}",
        f"--service-account-private-key-file={layout.account_key}",
        f"--controllers={','.join(_CONTROLLERS)}",
        "--leader-elect=false",
        "--secure-port=0",
        # The defaults make the deletion of a few hundred namespaces crawl.
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    ]


def token_file(token: str) -> str:
    """One line of kube-apiserver's static token file: token, user, uid, groups."""
    return f'{token},admin,admin,"system:masters"\n'


def kubeconfig(server: str, ca_pem: bytes, token: str, user: str, namespace: str = "default") -> str:
    """A kubeconfig that stands alone. It is JSON, which is YAML."""
    cluster = {"server": server, "certificate-authority-data": base64.b64encode(ca_pem).decode()}
    context = {"cluster": "controlplane", "user": user, "namespace": namespace}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "controlplane",
        "clusters": [{"name": "controlplane", "cluster": cluster}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "controlplane", "context": context}],
    }
    return json.dumps(document, indent=2)


def environment(layout: Layout, inherited: Mapping[str, str]) -> dict[str, str]:
    """The environment of everything we start: no KUBECONFIG, no HELM_*, no proxy, and a HOME without a .kube."""
    kept = {name: inherited[name] for name in _INHERITED if name in inherited}
    return kept | _COLLECTED_SELDOM | {"HOME": str(layout.home)}
