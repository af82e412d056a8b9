"""What a node needs of the machine. As a program, `python3 tests/node/needs.py`, it prints the missing Debian packages.

Standard library only: CI runs it before anything is installed.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

COMMANDS = {
    "buildah": "buildah",
    "busybox": "busybox-static",
    "containerd": "containerd",
    "containerd-shim-runc-v2": "containerd",
    "ctr": "containerd",
    "ip": "iproute2",
    "iptables-restore": "iptables",
    "mmdebstrap": "mmdebstrap",
    "nsenter": "util-linux",
    "runc": "runc",
    "unshare": "util-linux",
}
"""Each command, and the Debian package that has it."""
CNI_PLUGINS = tuple(map(Path, ("/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni")))
"""Where distributions put them."""
_CNI_PACKAGE = "containernetworking-plugins"
_SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def path() -> str:
    """PATH with the folders of administrators, who a user's shell may lack."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *_SYSTEM_FOLDERS])


def cni_plugins() -> Path | None:
    """The folder of the CNI plugins."""
    return next((folder for folder in CNI_PLUGINS if (folder / "bridge").exists()), None)


def missing_packages() -> list[str]:
    missing = {package for command, package in COMMANDS.items() if not shutil.which(command, path=path())}
    return sorted(missing | (set() if cni_plugins() else {_CNI_PACKAGE}))


def complaint() -> str | None:
    """One sentence if no node can run here."""
    if sys.platform != "linux":
        return f"A node needs Linux, and this is {sys.platform}: `make test` is everything that runs without one."
    if os.geteuid() != 0:
        return "A node needs root, for namespaces, mounts and cgroups: run `make test-node` as root."
    if packages := missing_packages():
        return f"A node needs more programs: apt-get install --no-install-recommends {' '.join(packages)}"
    return None


if __name__ == "__main__":
    print("\n".join(missing_packages()))
