"""Sets HOME where it is missing, before the Kubernetes client is imported."""

from __future__ import annotations

import os
from pathlib import Path


def have_a_home() -> None:
    """Sets HOME where it is missing, as container runtimes do: kubernetes_asyncio cannot be imported without it."""
    try:
        Path.home()
    except RuntimeError:  # the uid has no passwd entry either
        os.environ["HOME"] = "/"
