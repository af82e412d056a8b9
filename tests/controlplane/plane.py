"""One running control plane.

Opening, closing and the few `*_sync` methods work without an event loop, for fixtures; the rest is async.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import secrets
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import trustme

from tests.controlplane import build, components
from tests.controlplane.components import LOOPBACK, Layout, Ports
from tests.controlplane.errors import CommandError, ControlPlaneError, PortTakenError
from tests.controlplane.opened import Opened
from tests.controlplane.supervisor import Supervisor
from tests.patience import patience
from tests.plain import TRUSTS_NOBODY
from tests.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

START_SECONDS = 90.0
KUBECTL_SECONDS = 60.0
HELM_SECONDS = 120.0
STOP_GRACE_SECONDS = 2.0  # It waits a minute for its watchers if one lets it.
_POLL_SECONDS = 0.02
_PORT_TRIES = 8
_ETCD, _APISERVER, _MANAGER = "etcd", "kube-apiserver", "kube-controller-manager"
_SCHEDULER = "kube-scheduler"
_ETCDUTL = "etcdutl"
_OWN_LIMIT = re.compile(r"(--timeout=)(\d+)s")


@dataclass(frozen=True)
class Completed:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


class ControlPlane(Opened):
    """etcd, kube-apiserver and kube-controller-manager with their own CA, RBAC on, in a folder of their own.

    `with ControlPlane() as plane` or `async with ControlPlane.start() as plane`. The folder is made inside `parent`
    (default: the system's temporary folder) and removed at the end, whatever the end is.

    `address` is one of this machine's at which a node reaches the API server. With one, the control plane also has a
    scheduler, the controllers of Pods that run, and accounts for the node (`kubeconfig_of`).
    """

    def __init__(
        self, parent: Path | None = None, *, address: str = LOOPBACK, progress: build.Progress = build.report
    ) -> None:
        self._parent = parent
        self._address = address
        self._progress = progress
        self._owner = os.getpid()
        self._admin_token = secrets.token_urlsafe(24)
        users = () if address == LOOPBACK else components.NODE_USERS
        self._node_tokens = {user: secrets.token_urlsafe(24) for user in users}
        self._pids: dict[str, int] = {}
        self._closed = False

    @classmethod
    @asynccontextmanager
    async def start(cls, parent: Path | None = None) -> AsyncIterator[ControlPlane]:
        """Run a control plane for the length of an `async with`."""
        plane = cls(parent)
        try:
            await asyncio.to_thread(plane.open)
            yield plane
        finally:
            await asyncio.to_thread(plane.close)

    def __repr__(self) -> str:
        return f"ControlPlane({self.server!r})" if hasattr(self, "_ports") else "ControlPlane(not started)"

    # What users need to know of it.

    @property
    def workdir(self) -> Path:
        return self._layout.root

    @property
    def server(self) -> str:
        """The API server's URL."""
        return self._ports.server

    @property
    def ca(self) -> Path:
        """The certificate that signed the API server's."""
        return self._layout.ca

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self._layout.kubeconfig

    def kubeconfig_of(self, user: str) -> Path:
        """The kubeconfig of one of `components.NODE_USERS`."""
        return self._layout.kubeconfig_of(user)

    @property
    def audit_log(self) -> Path:
        """ServiceAccounts' requests, one JSON line each. Only with a node."""
        return self._layout.audit_log

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by component, the supervisor's included."""
        return {**self._pids, "supervisor": self._supervisor.pid}

    # Life.

    def open(self) -> None:
        """Start everything and wait until it works. Raises ControlPlaneError with the log of whatever failed."""
        scheduler = [_SCHEDULER] if self._node_tokens else []
        self._binaries = build.ensure(_ETCD, _APISERVER, _MANAGER, *scheduler, progress=self._progress)
        if self._closed:
            raise ControlPlaneError("The control plane was closed while it started.")
        self._layout = Layout(Path(tempfile.mkdtemp(prefix="controlplane-", dir=self._parent)))
        self._env = components.environment(self._layout, os.environ)
        self._write_credentials()
        self._supervisor = Supervisor(self._layout.root)
        self._start_servers()
        self._start_manager()
        if scheduler:
            self._run(_SCHEDULER, components.scheduler(self._binaries[_SCHEDULER], self._layout))
        self._wait(_MANAGER, lambda: self._exists("/api/v1/namespaces/default/serviceaccounts/default"))

    def close(self) -> None:
        """Kill everything and remove the folder. May be called twice."""
        self._closed = True
        if os.getpid() != self._owner:
            return  # A fork of the owner must not end what the owner still uses.
        if hasattr(self, "_http"):
            self._http.close()
        if hasattr(self, "_supervisor"):
            self._supervisor.close()
            self._kill_orphans()
        if hasattr(self, "_layout"):
            shutil.rmtree(self._layout.root, ignore_errors=True)

    def _kill_orphans(self) -> None:
        """After a clean end there are none; a supervisor that was killed leaves them where the kernel does not help."""
        if self._supervisor.crashed:
            for pid in self._pids.values():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    async def stop_apiserver(self) -> None:
        """End the API server alone; its port and etcd's data stay for `start_apiserver`."""
        await asyncio.to_thread(self._supervisor.stop, _APISERVER, STOP_GRACE_SECONDS)

    async def kill_apiserver(self) -> None:
        """As `stop_apiserver`, without giving it the time to end its requests."""
        await asyncio.to_thread(self._supervisor.stop, _APISERVER)

    async def start_apiserver(self) -> None:
        """Start the API server again at the same address and wait until it is ready."""
        await asyncio.to_thread(self._start_apiserver)

    async def snapshot(self, file: Path) -> None:
        """Save a snapshot of etcd, as `etcdctl snapshot save` does, while everything goes on."""
        await asyncio.to_thread(self._snapshot, file)

    async def restore(self, snapshot: Path, *, bumped: bool = False) -> None:
        """Restart etcd and the API server from a snapshot: every object is as it was then.

        Versions are counted on from there, or with `bumped` from far above (`--bump-revision --mark-compacted`).
        """
        await asyncio.to_thread(self._restore, snapshot, bumped)

    async def freeze_apiserver(self) -> None:
        """Stop the API server's clock: connections stay open and nothing answers."""
        await asyncio.to_thread(self._supervisor.signal, _APISERVER, signal.SIGSTOP)

    async def thaw_apiserver(self) -> None:
        await asyncio.to_thread(self._supervisor.signal, _APISERVER, signal.SIGCONT)

    # Use.

    async def kubectl(
        self,
        *args: str,
        input: str | None = None,  # noqa: A002
        check: bool = True,
        timeout: float = KUBECTL_SECONDS,
    ) -> Completed:
        """Run kubectl as the administrator. Raises CommandError on a failure unless `check` is False.

        `timeout` and kubectl's own `--timeout=…s` are for an idle machine: a busy one gets more.
        """
        return await self._command(build.kubectl_path(), args, input, check, timeout)

    def kubectl_sync(
        self,
        *args: str,
        input: str | None = None,  # noqa: A002
        check: bool = True,
        timeout: float = KUBECTL_SECONDS,
    ) -> Completed:
        """`kubectl` for code without an event loop."""
        argv = self._argv(build.kubectl_path(), args)
        answer = subprocess.run(
            argv,
            input=input,
            env=self._env,
            capture_output=True,
            text=True,
            timeout=patience(timeout),
            check=False,
        )
        return _checked(argv, Completed(answer.returncode, answer.stdout, answer.stderr), check)

    async def helm(
        self,
        *args: str,
        input: str | None = None,  # noqa: A002
        check: bool = True,
        timeout: float = HELM_SECONDS,
    ) -> Completed:
        """Run helm as the administrator. Raises CommandError on a failure unless `check` is False."""
        return await self._command(await asyncio.to_thread(build.helm_path), args, input, check, timeout)

    async def token(self, namespace: str, account: str, *, seconds: int = 3600) -> str:
        """A new token of a ServiceAccount, valid for `seconds` (the API server's least is 600)."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds},
        }
        answer = await asyncio.to_thread(self._request, "POST", path, body)
        return str(answer.json()["status"]["token"])

    async def kubeconfig_for(self, namespace: str, account: str, *, seconds: int = 3600) -> Path:
        """A kubeconfig with a ServiceAccount's own token: who uses it has that account's rights and no more."""
        path = self._layout.kubeconfig_for(namespace, account)
        token = await self.token(namespace, account, seconds=seconds)
        ca = self._layout.ca.read_bytes()
        _write_secret(path, components.kubeconfig(self.server, ca, token, f"{namespace}/{account}", namespace))
        return path

    async def metrics(self) -> str:
        """The API server's metrics as text; `apiserver_longrunning_requests` counts the watches."""
        answer = await asyncio.to_thread(self._request, "GET", "/metrics")
        return answer.text

    async def read(self, path: str) -> dict[str, Any] | None:
        """What a GET of the path answers the administrator, None for 404: a look without the cost of a process.

        Raises:
            ControlPlaneError: another answer than the object.
        """
        return await asyncio.to_thread(self.read_sync, path)

    def read_sync(self, path: str) -> dict[str, Any] | None:
        """`read` for code without an event loop."""
        answer = self._http.get(path)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        found: dict[str, Any] = _succeeded(answer).json()
        return found

    async def change(
        self, method: str, path: str, body: Any = None, content: str = "application/json"
    ) -> dict[str, Any]:
        """POST, PATCH or DELETE as the administrator, without the cost of a process. Returns the API server's answer.

        Args:
            content: the type of the body: a PATCH has several.

        Raises:
            ControlPlaneError: it was refused.
        """
        answer = await asyncio.to_thread(self._request, method, path, body, content)
        changed: dict[str, Any] = answer.json()
        return changed

    async def compact(self) -> None:
        """Drop the history of every object from etcd: lists at an old resourceVersion get 410 Gone.

        A watch is served from the API server's memory and gets 410 once that was restarted.
        """
        await asyncio.to_thread(self._compact)

    def create_namespace_sync(self, name: str) -> None:
        """Create a namespace and wait until its default ServiceAccount exists."""
        self._request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        self._wait(_MANAGER, lambda: self._exists(f"/api/v1/namespaces/{name}/serviceaccounts/default"))

    def delete_namespace_sync(self, name: str) -> None:
        """Ask for a namespace's deletion; what it holds goes in the background."""
        self._request("DELETE", f"/api/v1/namespaces/{name}")

    def clear_sync(self, *collections: str) -> None:
        """Ask for the deletion of all objects at these paths, if there is such a kind."""
        for path in collections:
            answer = self._http.delete(path)
            if answer.status_code != httpx.codes.NOT_FOUND:
                _succeeded(answer)

    # How it works.

    def _write_credentials(self) -> None:
        layout = self._layout
        layout.home.mkdir()
        layout.logs.mkdir()
        authority = trustme.CA()
        server = authority.issue_cert(*components.SERVER_NAMES, self._address)
        authority.cert_pem.write_to_path(layout.ca)
        server.cert_chain_pems[0].write_to_path(layout.server_certificate)
        server.private_key_pem.write_to_path(layout.server_key)
        authority.issue_cert("service-accounts").private_key_pem.write_to_path(layout.account_key)
        kubelet_client = authority.issue_cert(
            "kube-apiserver", common_name="kube-apiserver", organization_name="system:masters"
        )
        kubelet_client.cert_chain_pems[0].write_to_path(layout.kubelet_client_certificate)
        kubelet_client.private_key_pem.write_to_path(layout.kubelet_client_key)
        layout.audit_policy.write_text(components.audit_policy())
        _write_secret(layout.tokens, components.token_file(self._admin_token, self._node_tokens))

    def _start_servers(self) -> None:
        for _ in range(_PORT_TRIES):
            etcd, apiserver = free_ports(2)
            self._ports = Ports(etcd, apiserver, self._address)
            try:
                return self._start_on_ports()
            except PortTakenError:
                self._http.close()
                self._supervisor.stop(_APISERVER)
                self._supervisor.stop(_ETCD)
                shutil.rmtree(self._layout.data, ignore_errors=True)
        raise ControlPlaneError(f"Every port that was tried was taken at once, {_PORT_TRIES} times.")

    def _start_on_ports(self) -> None:
        layout, ports = self._layout, self._ports
        admin = components.kubeconfig(ports.server, layout.ca.read_bytes(), self._admin_token, "admin")
        _write_secret(layout.kubeconfig, admin)
        for user, token in self._node_tokens.items():
            config = components.kubeconfig(ports.server, layout.ca.read_bytes(), token, user)
            _write_secret(layout.kubeconfig_of(user), config)
        self._http = httpx.Client(
            base_url=ports.server,
            headers={"Authorization": f"Bearer {self._admin_token}"},
            verify=ssl.create_default_context(cafile=str(layout.ca)),
            trust_env=False,
            timeout=patience(30.0),
        )
        self._etcd_name = secrets.token_hex(8)
        self._start_etcd()
        self._start_apiserver()

    def _start_etcd(self) -> None:
        name = self._etcd_name
        self._run(_ETCD, components.etcd(self._binaries[_ETCD], self._layout, self._ports, name))
        self._wait(_ETCD, lambda: self._is_our_etcd(name))

    def _snapshot(self, file: Path) -> None:
        url = f"{self._ports.etcd_url}/v3/maintenance/snapshot"
        options: dict[str, Any] = {"timeout": 60.0, "trust_env": False, "verify": TRUSTS_NOBODY}
        with file.open("wb") as saved, httpx.stream("POST", url, json={}, **options) as answer:
            answer.raise_for_status()
            for line in answer.iter_lines():
                saved.write(base64.b64decode(json.loads(line)["result"].get("blob", "")))

    def _restore(self, snapshot: Path, bumped: bool) -> None:
        etcdutl = build.ensure(_ETCDUTL, progress=self._progress)[_ETCDUTL]
        # As Kubernetes advises after a restore: its controllers ignore versions that are lower than one they saw.
        self._supervisor.stop(_MANAGER, STOP_GRACE_SECONDS)
        self._supervisor.stop(_APISERVER, STOP_GRACE_SECONDS)
        self._supervisor.stop(_ETCD, STOP_GRACE_SECONDS)
        shutil.rmtree(self._layout.data)
        argv = components.etcd_from(snapshot, etcdutl, self._layout, self._etcd_name, bumped=bumped)
        answer = subprocess.run(argv, env=self._env, capture_output=True, text=True, timeout=60.0, check=False)
        if answer.returncode:
            raise ControlPlaneError(f"etcdutl could not restore {snapshot}: {answer.stderr.strip()}")
        self._start_etcd()
        self._start_apiserver()
        self._start_manager()

    def _start_manager(self) -> None:
        self._run(_MANAGER, components.controller_manager(self._binaries[_MANAGER], self._layout, self._ports))

    def _start_apiserver(self) -> None:
        self._run(_APISERVER, components.apiserver(self._binaries[_APISERVER], self._layout, self._ports))
        self._wait(_APISERVER, lambda: self._exists("/readyz"))

    def _run(self, name: str, argv: list[str]) -> None:
        self._pids[name] = self._supervisor.start(name, argv, self._env, self._layout.log(name))

    def _wait(self, name: str, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + patience(START_SECONDS)
        while not ready():
            code = self._supervisor.exited().get(name)
            if code is not None:
                raise self._ended(name, code)
            if time.monotonic() > deadline:
                raise ControlPlaneError(f"{name} was not ready after {START_SECONDS:.0f} s. {self._tail(name)}")
            time.sleep(_POLL_SECONDS)

    def _ended(self, name: str, code: int) -> ControlPlaneError:
        tail = self._tail(name)
        kind = PortTakenError if "address already in use" in tail else ControlPlaneError
        return kind(f"{name} ended with exit code {code}. {tail}")

    def _tail(self, name: str, lines: int = 15) -> str:
        text = self._layout.log(name).read_text(errors="replace").splitlines()
        return "\n".join([f"The end of {name}.log:", *text[-lines:]])

    def _is_our_etcd(self, name: str) -> bool:
        with suppress(httpx.TransportError):
            answer = self._etcd("cluster/member/list", {})
            return any(member.get("name") == name for member in answer.get("members", []))
        return False

    def _compact(self) -> None:
        any_key = {"key": base64.b64encode(b"/").decode()}
        revision = self._etcd("kv/range", any_key)["header"]["revision"]
        self._etcd("kv/compaction", {"revision": revision, "physical": True})

    def _etcd(self, method: str, body: dict[str, Any]) -> dict[str, Any]:
        """etcd's JSON gateway: gRPC without a gRPC client."""
        answer = httpx.post(f"{self._ports.etcd_url}/v3/{method}", json=body, trust_env=False, verify=TRUSTS_NOBODY)
        answer.raise_for_status()
        decoded: dict[str, Any] = answer.json()
        return decoded

    def _request(self, method: str, path: str, body: Any = None, content: str = "application/json") -> httpx.Response:
        return _succeeded(self._http.request(method, path, json=body, headers={"Content-Type": content}))

    def _exists(self, path: str) -> bool:
        with suppress(httpx.TransportError):
            return self._http.get(path).is_success
        return False

    def _argv(self, binary: Path, args: tuple[str, ...]) -> list[str]:
        return [str(binary), f"--kubeconfig={self.kubeconfig}", *map(_patient, args)]

    async def _command(
        self, binary: Path, args: tuple[str, ...], text: str | None, check: bool, timeout: float
    ) -> Completed:
        argv = self._argv(binary, args)
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*argv, env=self._env, stdin=pipe, stdout=pipe, stderr=pipe)
        try:
            async with asyncio.timeout(patience(timeout)):
                output, errors = await process.communicate(text.encode() if text is not None else None)
        except TimeoutError:
            raise CommandError(f"{_shown(argv)} did not end within {patience(timeout):.0f} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return _checked(argv, Completed(process.returncode or 0, output.decode(), errors.decode()), check)


def _succeeded(answer: httpx.Response) -> httpx.Response:
    if answer.is_error:
        asked = answer.request
        raise ControlPlaneError(f"{asked.method} {asked.url.path}: {answer.status_code} {answer.text.strip()}")
    return answer


def _patient(argument: str) -> str:
    """An argument, with kubectl's own limit as this machine needs it."""
    return _OWN_LIMIT.sub(lambda limit: f"{limit[1]}{patience(float(limit[2])):.0f}s", argument)


def _checked(argv: list[str], completed: Completed, check: bool) -> Completed:
    if check and completed.returncode:
        raise CommandError(f"{_shown(argv)} ended with {completed.returncode}: {completed.stderr.strip()}")
    return completed


def _shown(argv: list[str]) -> str:
    binary, _kubeconfig, *args = argv
    return " ".join([Path(binary).name, *args])


def _write_secret(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
