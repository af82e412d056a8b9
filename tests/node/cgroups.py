"""The one parent under which all cgroups of a node are."""

from __future__ import annotations

import secrets
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
# Processes that were just killed still count: try for ten seconds.
_REMOVE = 'for _ in $(seq 100); do found=; for top; do test -d "$top" && found=1 && \
find "$top" -depth -type d -exec rmdir {} + 2>/dev/null; done; test "$found" || exit 0; sleep 0.1; done'


class Cgroup:
    """A new cgroup with a name of its own, in each hierarchy that there is (one, or one for each controller)."""

    def __init__(self) -> None:
        self.name = f"dbtrun-node-{secrets.token_hex(4)}"
        self._paths = [hierarchy / self.name for hierarchy in _hierarchies()]

    def make(self) -> None:
        for path in self._paths:
            path.mkdir()

    def removal(self) -> list[str]:
        """The command that removes it, once nobody is in it."""
        return ["sh", "-c", _REMOVE, "sh", *map(str, self._paths)]

    def memory_of(self, container: str) -> Path:
        """The folder that counts and limits a container's memory.

        Raises:
            LookupError: there is no such container.
        """
        memory = next(path for path in self._paths if path.parent in {ROOT, ROOT / "memory"})
        found = list(memory.rglob(container))
        if not found:
            raise LookupError(f"no cgroup of container {container}")
        return found[0]


def _hierarchies() -> list[Path]:
    if (ROOT / "cgroup.controllers").exists():
        return [ROOT]
    return [path for path in sorted(ROOT.iterdir()) if path.is_dir() and not path.is_symlink()]
