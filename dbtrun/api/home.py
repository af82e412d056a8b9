"""A HOME where there is none: what both sides need before they import their Kubernetes client."""

from __future__ import annotations

import os
from pathlib import Path


def have_a_home() -> None:
    """Sets HOME where there is none, as container runtimes do: kubernetes_asyncio cannot be imported without one."""
    try:
        Path.home()
    except RuntimeError:  # the uid has no passwd entry either
        os.environ["HOME"] = "/"
