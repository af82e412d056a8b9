"""How long to wait: a machine that others use too takes longer for everything, and a test must not fail by that."""

from __future__ import annotations

import os


def patience(seconds: float) -> float:
    """The limit, on this machine as busy as it is now, for what takes at most so long on an idle one."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
