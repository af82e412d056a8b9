"""The memory of the container that a check shares with the watcher: the check must not get the watcher killed."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Final

CGROUP: Final = Path("/sys/fs/cgroup")
MIB: Final = 1024 * 1024
ALLOWED: Final = 192 * MIB
"""What a check may allocate: an answer of dbt Cloud may be large."""
NEEDED: Final = 128 * MIB
"""What it needs as a rule; nearly all of it is the Kubernetes client."""


class TooLittle(Exception):
    """The container has too little memory left; the message is a sentence."""


def keep_within(allowed: int, cgroup: Path = CGROUP) -> None:
    """From now on the process gets a MemoryError before its container is full.

    Args:
        allowed: bytes that it may allocate at most.
        cgroup: the container's cgroup.

    Raises:
        TooLittle: less is left than a check needs.
    """
    left = room(cgroup)
    if left is not None and left < NEEDED:
        raise TooLittle(
            f"The watcher's container has {left // MIB} MiB of memory left, and a check needs {NEEDED // MIB} MiB."
        )
    soft = allowed if left is None else min(allowed, left)
    # RLIMIT_AS would also count libraries that are mapped and take no memory of the container.
    resource.setrlimit(resource.RLIMIT_DATA, (soft, resource.RLIM_INFINITY))


def room(cgroup: Path = CGROUP) -> int | None:
    """Bytes that the processes of the cgroup may still use together; None: there is no limit."""
    # cgroup v2 says `max` where there is no limit; cgroup v1 says a number near 2**63.
    for limit, usage in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        if (cgroup / limit).is_file() and (cgroup / usage).is_file():
            text = (cgroup / limit).read_text().strip()
            if not text.isdigit():
                return None
            # The kernel drops pages of files when it needs their memory, so they do not count as used.
            stat = (cgroup / usage).with_name("memory.stat").read_text().split()
            numbers = dict(zip(stat[::2], map(int, stat[1::2]), strict=True))
            cached = numbers.get("total_inactive_file", numbers.get("inactive_file", 0))
            return int(text) - (int((cgroup / usage).read_text()) - cached)
    return None
