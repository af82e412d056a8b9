"""The node itself: Pods run, and nothing of it stays behind."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.controlplane import build
from tests.node import Node, images, needs
from tests.stack import Program
from tests.stack.waiting import until

ROOT = Path(__file__).parents[2]
CGROUPS = Path("/sys/fs/cgroup")


def pod(name: str, **container: Any) -> str:
    """A Pod of the pause image's busybox, admitted where only restricted Pods are."""
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    whole = {"name": "main", "image": images.PAUSE, "imagePullPolicy": "Never", "securityContext": security}
    spec = {
        "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": 0,
        "containers": [whole | container],
    }
    return json.dumps(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"a": name}}, "spec": spec}
    )


def test_a_pod_runs_and_can_be_looked_into(node: Node, restricted: str) -> None:
    plane, here = node.plane, f"--namespace={restricted}"
    plane.kubectl_sync("apply", here, "-f-", input=pod("one", command=["/busybox", "sh", "-c", "echo hi; sleep 600"]))
    plane.kubectl_sync("wait", here, "pod/one", "--for=condition=Ready", "--timeout=60s")
    # Without a probe a Pod is Ready before its shell has come to the first command.
    while not (said := plane.kubectl_sync("logs", here, "one").stdout):
        time.sleep(0.2)
    assert said == "hi\n"
    assert "uid=1000" in plane.kubectl_sync("exec", here, "one", "--", "/busybox", "id").stdout
    found = plane.kubectl_sync("get", here, "pod/one", "-ojsonpath={.status.containerStatuses[0].containerID}").stdout
    first, *_ = node.processes_of(found.removeprefix("containerd://"))
    assert "sleep" in Path(f"/proc/{first}/cmdline").read_text()


def test_pods_reach_each_other_by_a_services_name(node: Node, restricted: str) -> None:
    plane, here = node.plane, f"--namespace={restricted}"
    serve = "cd /dev/shm; echo yes > index.html; exec /busybox httpd -f -p 8080"
    plane.kubectl_sync("apply", here, "-f-", input=pod("server", command=["/busybox", "sh", "-c", serve]))
    plane.kubectl_sync("expose", here, "pod/server", "--port=80", "--target-port=8080")
    ask = f'until /busybox wget -q -O- "http://server.{restricted}.svc/"; do /busybox sleep 0.2; done'
    plane.kubectl_sync("apply", here, "-f-", input=pod("client", command=["/busybox", "sh", "-c", ask]))
    plane.kubectl_sync("wait", here, "pod/client", "--for=jsonpath={.status.containerStatuses[0].restartCount}=1")
    assert plane.kubectl_sync("logs", here, "client", "--previous").stdout == "yes\n"


class Machine:
    """What a node could leave on this machine."""

    def __init__(self, traces: dict[str, str]) -> None:
        self._traces = traces

    def left(self) -> dict[str, list[str]]:
        """What there is of the node now, by kind."""
        folders = [self._traces["folder"], str(Path(self._traces["kubeconfig"]).parent)]
        of_it = (*folders, self._traces["cgroup"])
        found = {
            "processes": [line for line in _command_lines() if any(each in line for each in of_it)],
            "mounts": [line for line in _lines("/proc/self/mountinfo") if any(each in line for each in of_it)],
            "links": [path.name for path in Path("/sys/class/net").iterdir() if path.name == self._traces["link"]],
            "cgroups": [str(path) for at in ("", "*/") for path in CGROUPS.glob(f"{at}{self._traces['cgroup']}")],
            "folders": [folder for folder in folders if Path(folder).exists()],
        }
        return {kind: each for kind, each in found.items() if each}


def _command_lines() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_text(errors="replace").replace("\0", " ")
        except OSError:  # It ended meanwhile.
            continue


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def rules() -> str:
    """The machine's own packet filter rules, without counters, and the settings that a kubelet likes to change."""
    saved = subprocess.run(["iptables-save"], env={"PATH": needs.path()}, capture_output=True, text=True, check=True)
    settings = [
        Path("/proc/sys", name).read_text() for name in ("net/ipv4/ip_forward", "vm/overcommit_memory", "kernel/panic")
    ]
    return "\n".join([line for line in saved.stdout.splitlines() if not line.startswith((":", "#"))] + settings)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
async def test_nothing_stays_behind(node: Node, tmp_path: Path, end: signal.Signals) -> None:
    """`node` for the binaries, and because this second node must not disturb it."""
    before = rules()
    env = {"DBTRUN_CACHE": str(build.cache_folder().parent), "PYTHONPATH": str(ROOT)}
    owner = Program("another node", [sys.executable, "-m", "tests.node", "up"], env, tmp_path / "node.log")
    owner.start()
    try:
        traces = json.loads((await owner.says(r"{.*}\n"))[0])
        machine = Machine(traces)
        kubectl = f"--kubeconfig={traces['kubeconfig']}"
        await node.plane.kubectl(kubectl, "apply", "-f-", input=pod("one"))
        await node.plane.kubectl(kubectl, "wait", "pod/one", "--for=condition=Ready", "--timeout=60s")
        assert machine.left().keys() == {"processes", "links", "cgroups", "folders"}, "what is looked for is there"
        assert rules() == before
    finally:
        owner.send(end)

    async def clean() -> bool:
        return not machine.left()

    try:
        await until(clean, 60, "nothing left", pause=0.2)
    except AssertionError:
        raise AssertionError(machine.left()) from None
    await owner.wait(10)
    assert rules() == before
    await node.plane.kubectl("get", "nodes")
