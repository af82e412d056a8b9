"""The control plane itself: other tests stand on it, so what they rely on is proven here."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.controlplane import CommandError, ControlPlane, ControlPlaneError, build, kubectl_path
from tests.patience import patience

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[2]
GONE_SECONDS = 60.0
OWNER = """
    import json, os, signal, sys
    from pathlib import Path
    from tests.controlplane import ControlPlane

    with ControlPlane(Path(sys.argv[1])) as plane:
        fork = os.fork()
        if fork:
            print(json.dumps(plane.pids | {"fork": fork}), flush=True)
        signal.pause()
"""


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def eventually(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + patience(GONE_SECONDS)
    while not condition():
        assert time.monotonic() < deadline, f"not within {GONE_SECONDS:.0f} s: {what}"
        time.sleep(0.05)


def everything_is_gone(pids: dict[str, int], folder: Path) -> None:
    for name, pid in pids.items():
        eventually(lambda pid=pid: is_gone(pid), f"{name} is gone")  # type: ignore[misc]
    eventually(lambda: not list(folder.iterdir()), "the working folder is gone")


@contextmanager
def child(*argv: str | Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, *argv], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the child ended before it said anything"
    return line.strip()


def test_a_warm_start_takes_seconds(binaries: None, tmp_path: Path) -> None:
    started = time.monotonic()
    with ControlPlane(tmp_path):
        took = time.monotonic() - started
    print(f"warm start: {took:.1f} s")
    assert took < patience(20)
    assert list(tmp_path.iterdir()) == []


async def test_two_planes_at_once_hold_different_data(plane: ControlPlane, stormy_plane: ControlPlane) -> None:
    await stormy_plane.kubectl("create", "namespace", "only-in-one")
    await stormy_plane.kubectl("get", "namespace", "only-in-one")
    with pytest.raises(CommandError, match='"only-in-one" not found'):
        await plane.kubectl("get", "namespace", "only-in-one")


async def test_a_fresh_service_account_may_not_list_secrets_until_a_role_lets_it(
    plane: ControlPlane, namespace: str
) -> None:
    await plane.kubectl("create", "serviceaccount", "reader", f"--namespace={namespace}")
    kubeconfig = await plane.kubeconfig_for(namespace, "reader")
    with pytest.raises(CommandError, match=r"Forbidden.*cannot list resource \"secrets\""):
        await plane.kubectl("get", "secrets", f"--kubeconfig={kubeconfig}")

    await plane.kubectl("create", "role", "read", "--verb=list", "--resource=secrets", f"--namespace={namespace}")
    binding = ["create", "rolebinding", "read", "--role=read", f"--serviceaccount={namespace}:reader"]
    await plane.kubectl(*binding, f"--namespace={namespace}")
    await plane.kubectl("get", "secrets", f"--kubeconfig={kubeconfig}")


async def test_a_token_is_the_service_accounts_own(plane: ControlPlane, namespace: str) -> None:
    kubeconfig = await plane.kubeconfig_for(namespace, "default")
    answer = await plane.kubectl("auth", "whoami", "--output=json", f"--kubeconfig={kubeconfig}")
    user = json.loads(answer.stdout)["status"]["userInfo"]["username"]
    assert user == f"system:serviceaccount:{namespace}:default"


async def test_an_api_server_that_was_restarted_still_has_its_data(stormy_plane: ControlPlane) -> None:
    server = stormy_plane.server
    await stormy_plane.kubectl("create", "configmap", "kept", "--from-literal=a=b")

    await stormy_plane.stop_apiserver()
    with pytest.raises(CommandError, match="refused"):
        await stormy_plane.kubectl("get", "configmap", "kept")
    await stormy_plane.start_apiserver()

    assert stormy_plane.server == server
    await stormy_plane.kubectl("get", "configmap", "kept")
    await asyncio.to_thread(stormy_plane.create_namespace_sync, "controllers-are-back")


async def test_a_frozen_api_server_answers_nobody_until_it_is_thawed(stormy_plane: ControlPlane) -> None:
    await stormy_plane.freeze_apiserver()
    try:
        with pytest.raises(CommandError, match=r"did not end within|TLS handshake timeout"):
            await stormy_plane.kubectl("get", "namespaces", timeout=1)
    finally:
        await stormy_plane.thaw_apiserver()
    await stormy_plane.kubectl("get", "namespaces")


async def test_old_versions_expire_for_watches_by_a_restart_and_for_lists_by_a_compaction(
    stormy_plane: ControlPlane,
) -> None:
    version = ["create", "configmap", "older", "--output=jsonpath={.metadata.resourceVersion}"]
    old = (await stormy_plane.kubectl(*version)).stdout
    watch = f"/api/v1/configmaps?watch=1&timeoutSeconds=1&resourceVersion={old}"
    exact_list = f"/api/v1/configmaps?resourceVersionMatch=Exact&limit=1&resourceVersion={old}"
    await stormy_plane.kubectl("create", "configmap", "newer")
    assert "newer" in (await stormy_plane.kubectl("get", "--raw", watch)).stdout

    await stormy_plane.kill_apiserver()
    await stormy_plane.start_apiserver()
    assert '"code":410' in (await stormy_plane.kubectl("get", "--raw", watch)).stdout
    await stormy_plane.kubectl("get", "--raw", exact_list)

    await stormy_plane.compact()
    with pytest.raises(CommandError, match="Expired"):
        await stormy_plane.kubectl("get", "--raw", exact_list)


async def test_the_metrics_count_the_watches(plane: ControlPlane) -> None:
    assert "apiserver_longrunning_requests{" in await plane.metrics()


def test_nothing_is_left_after_kill_9_of_the_owner_even_when_a_fork_of_it_lives(binaries: None, tmp_path: Path) -> None:
    with child("-c", textwrap.dedent(OWNER), tmp_path) as owner:
        pids: dict[str, int] = json.loads(first_line(owner))
        fork = pids.pop("fork")
        try:
            assert not any(map(is_gone, pids.values()))
            owner.kill()
            everything_is_gone(pids, tmp_path)
            assert not is_gone(fork)
        finally:
            os.kill(fork, signal.SIGKILL)


def test_nothing_is_left_after_ctrl_c(binaries: None, tmp_path: Path) -> None:
    with child("-m", "tests.controlplane", "up", "--in", tmp_path) as up:
        kubeconfig = Path(first_line(up))
        assert kubeconfig.is_file()
        processes = {str(process.pid): process.pid for process in psutil.Process(up.pid).children(recursive=True)}
        assert len(processes) == 4
        up.send_signal(signal.SIGINT)
        assert up.wait(GONE_SECONDS) == 0
        everything_is_gone(processes, tmp_path)


def test_no_component_outlives_its_supervisor(own_plane: ControlPlane) -> None:
    pids = own_plane.pids
    os.kill(pids["supervisor"], signal.SIGKILL)
    if sys.platform != "linux":  # Elsewhere the kernel does not tell children of their parent's death.
        own_plane.close()
    for name, pid in pids.items():
        eventually(lambda pid=pid: is_gone(pid), f"{name} is gone")  # type: ignore[misc]


def test_a_start_that_fails_shows_the_end_of_the_log_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, binaries: None
) -> None:
    broken = tmp_path / "assets" / "etcd"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho 'the flux capacitor is empty'\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(broken.parent))
    parent = tmp_path / "parent"
    parent.mkdir()

    with (
        pytest.raises(ControlPlaneError, match=r"etcd ended with exit code 3(.|\n)*flux capacitor"),
        ControlPlane(parent),
    ):
        pass

    assert list(parent.iterdir()) == []


class Trap:
    """A kubeconfig that tells when somebody uses it: its server counts callers, its credential plugin leaves a file."""

    def __init__(self, folder: Path) -> None:
        self.connections = 0
        self.marker = folder / "plugin-was-run"
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._count, daemon=True).start()
        self.path = folder / ".kube" / "config"
        self.path.parent.mkdir()
        self.path.write_text(self._kubeconfig())

    def _count(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections += 1
                connection.close()

    def _kubeconfig(self) -> str:
        version = "client.authentication.k8s.io/v1"
        credential = json.dumps({"apiVersion": version, "kind": "ExecCredential", "status": {"token": "t"}})
        plugin = {
            "apiVersion": version,
            "command": "/bin/sh",
            "args": ["-c", f"touch {self.marker}; echo '{credential}'"],
            "interactiveMode": "Never",
        }
        server = f"https://127.0.0.1:{self.listener.getsockname()[1]}"
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "mine",
                "clusters": [{"name": "mine", "cluster": {"server": server, "insecure-skip-tls-verify": True}}],
                "users": [{"name": "me", "user": {"exec": plugin}}],
                "contexts": [{"name": "mine", "context": {"cluster": "mine", "user": "me"}}],
            }
        )

    @property
    def sprung(self) -> bool:
        return bool(self.connections) or self.marker.exists()


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trap]:
    trap = Trap(tmp_path)
    monkeypatch.setenv("DBTRUN_CACHE", str(build.cache_folder().parent))  # It is in the HOME that we leave.
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KUBECONFIG", str(trap.path))
    monkeypatch.setenv("HELM_KUBECONTEXT", "mine")
    with trap.listener:
        yield trap


@pytest.fixture
def plane_among_traps(binaries: None, trap: Trap) -> Iterator[ControlPlane]:
    with ControlPlane() as plane:
        yield plane


async def test_the_users_kubeconfig_is_never_used(trap: Trap, plane_among_traps: ControlPlane) -> None:
    before = trap.path.read_bytes()
    await plane_among_traps.kubectl("get", "namespaces")
    await plane_among_traps.kubectl("config", "set-context", "--current", "--namespace=kube-system")
    await plane_among_traps.helm("list", "--all-namespaces")
    await plane_among_traps.kubeconfig_for("default", "default")
    assert not trap.sprung
    assert trap.path.read_bytes() == before


def test_the_trap_springs_for_a_kubectl_that_does_use_it(trap: Trap) -> None:
    with subprocess.Popen([kubectl_path(), "get", "--raw", "/version"], stderr=subprocess.DEVNULL) as kubectl:
        try:
            eventually(lambda: trap.connections > 0, "the trap is called")
        finally:
            kubectl.kill()
    assert trap.marker.exists()
