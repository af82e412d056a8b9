"""How much memory a process has had."""

from __future__ import annotations

import re
from pathlib import Path


def peak_mib() -> int:
    """MiB that this process held at most since it began.

    Not `ru_maxrss`: Linux hands that one down from the process that forked it, here a whole test run.
    """
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None, "this is Linux"
    return int(found[1]) // 1024
