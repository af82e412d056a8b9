"""Which API server, and as whom: names of files, no secrets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True)
class ClusterConfig:
    """Which cluster, and as whom. It may be stored with a trigger, where others can read it.

    Raises:
        ValueError: arguments that exclude each other.
    """

    in_cluster: bool | None = None
    config_file: str | None = None
    context: str | None = None

    def __post_init__(self) -> None:
        if self.in_cluster and self.config_file:
            raise ValueError("in_cluster and config_file cannot be combined: set only one of them")
        if self.context and not self.config_file:
            raise ValueError("cluster_context needs config_file: contexts are in a kubeconfig")


@dataclass(frozen=True)
class Timeouts:
    """Seconds. kubernetes_asyncio has no time-out of its own: a request that gets no answer would wait for ever."""

    connect: float = 5.0
    """To connect, TLS included."""
    total: float = 30.0
    """For one whole request; a page of 500 objects takes well under a second."""


def own_namespace(folder: Path = SERVICE_ACCOUNT) -> str:
    """The pod's own namespace; outside of a pod `default`."""
    try:
        return (folder / "namespace").read_text(encoding="utf-8").strip() or "default"
    except (OSError, ValueError):
        return "default"
