"""A limit of memory for a program, as the kernel enforces it on a container."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

CGROUPS: Final = Path("/sys/fs/cgroup/memory")
"""Of version 1; where there is none that may be written, the process itself is limited."""
ENTER: Final = 'echo $$ > "$1" && shift && exec "$@"'
LIMIT: Final = 'ulimit -d "$1" && shift && exec "$@"'


@contextmanager
def limited(mebibytes: int) -> Iterator[list[str]]:
    """What stands before the command of a program: beyond the limit the kernel kills it, or gives it no memory."""
    group = _own_group() / f"dbtrun-tests-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(mebibytes << 20))
    except OSError:
        yield ["sh", "-c", LIMIT, "sh", str(mebibytes << 10)]
        return
    try:
        yield ["sh", "-c", ENTER, "sh", str(group / "cgroup.procs")]
    finally:
        with suppress(OSError):
            group.rmdir()


def _own_group() -> Path:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return CGROUPS / path.lstrip("/")
    return CGROUPS
