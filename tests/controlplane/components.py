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
SERVICE_RANGE = "10.0.0.0/24"
NODE_NAME = "node-1"
# Who talks to an API server that has a node, and each one's groups. Their rights are Kubernetes' own.
NODE_USERS = {"system:kube-scheduler": "", "system:kube-proxy": "", f"system:node:{NODE_NAME}": "system:nodes"}
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
# Beside those, the controllers of Pods that run.
_NODE_CONTROLLERS = (
    "daemonset-controller",
    "disruption-controller",
    "endpointslice-controller",
    "job-controller",
    "node-lifecycle-controller",
    "pod-garbage-collector-controller",
    "statefulset-controller",
    "taint-eviction-controller",
)
# Go's garbage collector: tests lack processors, not memory.
COLLECTED_SELDOM = {"GOGC": "1000", "GOMEMLIMIT": "1GiB"}


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

    @property
    def kubelet_client_certificate(self) -> Path:
        """Who the API server is to a kubelet: for logs and exec."""
        return self.root / "kubelet-client.crt"

    @property
    def kubelet_client_key(self) -> Path:
        return self.root / "kubelet-client.key"

    @property
    def audit_policy(self) -> Path:
        return self.root / "audit-policy.json"

    @property
    def audit_log(self) -> Path:
        """Who asked for what with which token, one JSON line each. Only with a node."""
        return self.logs / "audit.log"

    def log(self, component: str) -> Path:
        return self.logs / f"{component}.log"

    def kubeconfig_for(self, namespace: str, account: str) -> Path:
        return self.root / f"{namespace}.{account}.kubeconfig"

    def kubeconfig_of(self, user: str) -> Path:
        """Of one of NODE_USERS."""
        return self.root / f"{user.replace(':', '-')}.kubeconfig"


@dataclass(frozen=True)
class Ports:
    etcd: int
    apiserver: int
    address: str = LOOPBACK
    """Where the API server listens. Loopback: there is no node. Else nodes reach it there."""

    @property
    def etcd_url(self) -> str:
        return f"http://{LOOPBACK}:{self.etcd}"

    @property
    def server(self) -> str:
        return f"https://{self.address}:{self.apiserver}"

    @property
    def for_a_node(self) -> bool:
        return self.address != LOOPBACK


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


def etcd_from(snapshot: Path, binary: Path, layout: Layout, name: str, *, bumped: bool) -> list[str]:
    """etcdutl's command that makes etcd's data anew from a snapshot.

    `bumped`: as etcd recommends for Kubernetes, so that no version is given twice and every watch ends.
    """
    peer = f"http://{LOOPBACK}:0"
    return [
        str(binary),
        "snapshot",
        "restore",
        str(snapshot),
        f"--data-dir={layout.data}",
        f"--name={name}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster={name}={peer}",
        *(("--bump-revision=1000000000", "--mark-compacted") if bumped else ()),
    ]


def apiserver(binary: Path, layout: Layout, ports: Ports) -> list[str]:
    return [
        str(binary),
        f"--etcd-servers={ports.etcd_url}",
        f"--bind-address={ports.address}",
        f"--advertise-address={ports.address}",
        f"--secure-port={ports.apiserver}",
        f"--tls-cert-file={layout.server_certificate}",
        f"--tls-private-key-file={layout.server_key}",
        f"--client-ca-file={layout.ca}",
        f"--token-auth-file={layout.tokens}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={layout.account_key}",
        f"--service-account-signing-key-file={layout.account_key}",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--allow-privileged=true",
        *(_apiserver_with_a_node(layout) if ports.for_a_node else _APISERVER_ALONE),
    ]


_APISERVER_ALONE = ("--authorization-mode=RBAC", "--endpoint-reconciler-type=none")


def _apiserver_with_a_node(layout: Layout) -> tuple[str, ...]:
    return (
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--kubelet-client-certificate={layout.kubelet_client_certificate}",
        f"--kubelet-client-key={layout.kubelet_client_key}",
        f"--audit-policy-file={layout.audit_policy}",
        f"--audit-log-path={layout.audit_log}",
        # It would look a host name up in a DNS that does not know it.
        "--kubelet-preferred-address-types=InternalIP",
    )


def audit_policy() -> str:
    """ServiceAccounts' requests without their bodies, and nobody else's."""
    rules = [{"level": "Metadata", "userGroups": ["system:serviceaccounts"]}, {"level": "None"}]
    stages = ["RequestReceived"]
    return json.dumps({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": stages, "rules": rules})


def scheduler(binary: Path, layout: Layout) -> list[str]:
    return [
        str(binary),
        f"--kubeconfig={layout.kubeconfig_of('system:kube-scheduler')}",
        "--leader-elect=false",
        "--secure-port=0",
    ]


def controller_manager(binary: Path, layout: Layout, ports: Ports) -> list[str]:
    controllers = (*_CONTROLLERS, *(_NODE_CONTROLLERS if ports.for_a_node else ()))
    return [
        str(binary),
        f"--kubeconfig={layout.kubeconfig}",
        f"--root-ca-file={layout.ca}",
        f"--service-account-private-key-file={layout.account_key}",
        f"--controllers={','.join(controllers)}",
        "--leader-elect=false",
        "--secure-port=0",
        # The defaults make the deletion of a few hundred namespaces crawl.
        "--kube-api-qps=200",
        "--kube-api-burst=400",
    ]


def token_file(token: str, node_tokens: Mapping[str, str]) -> str:
    """kube-apiserver's static token file, lines of token, user, uid, groups: the administrator and NODE_USERS."""
    users = {"admin": (token, "system:masters")}
    users |= {user: (each, NODE_USERS[user]) for user, each in node_tokens.items()}
    return "".join(f'{each},{user},{user},"{groups}"\n' for user, (each, groups) in users.items())


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
    return kept | COLLECTED_SELDOM | {"HOME": str(layout.home)}
