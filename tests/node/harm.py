"""What is done to Pods."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Final

import psutil

from tests.node.node import Node
from tests.stack import Site, until

HEADROOM: Final = 8 << 20
"""Bytes that the container may still take before the kernel kills something in it."""
BALLAST: Final = "import time; held = bytearray(64 << 20); time.sleep(60)"


async def evict(site: Site, pod: str) -> None:
    """As a drained node does."""
    where = {"name": pod, "namespace": site.namespace}
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": where}
    path = f"/api/v1/namespaces/{site.namespace}/pods/{pod}/eviction"
    await site.kubectl("create", f"--raw={path}", "-f", "-", input=json.dumps(eviction))


async def out_of_memory(node: Node, site: Site, pod: str, container: str, identity: str) -> None:
    """Leaves the container little memory and takes that: the kernel kills its largest process, which is the watcher.

    A kernel that finds other memory to take back, or kills the ballast, is asked again.

    Args:
        node: where the pod runs.
        site: the pod's namespace.
        pod: its name.
        container: its container's name.
        identity: the container's id in containerd.
    """
    first, *_ = node.processes_of(identity)

    async def killed() -> bool:
        with suppress(OSError, LookupError):  # Its cgroup goes with its last process.
            await asyncio.to_thread(node.limit_memory, identity, HEADROOM)
        await site.kubectl("exec", pod, "-c", container, "--", "python", "-c", BALLAST, check=False)
        return not psutil.pid_exists(first)

    await until(killed, 60, f"the kernel kills the watcher in {pod}")
