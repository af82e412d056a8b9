"""Paths of resources."""

from __future__ import annotations

from urllib.parse import quote

from dbtrun.kube.errors import NotFound


class NoSuchName(NotFound, ValueError):
    """Nothing in Kubernetes can have this name."""


def api_path(prefix: str, namespace: str | None, plural: str, name: str | None = None, sub: str | None = None) -> str:
    """A resource's path, as `api_path("api/v1", "ns", "secrets", "x")`. No segment can leave its place.

    Raises:
        NoSuchName: a segment that no Kubernetes name can be.
    """
    scope = [] if namespace is None else ["namespaces", namespace]
    segments = [*scope, plural, *(s for s in (name, sub) if s is not None)]
    # quote() leaves dots as they are, and `..` would be resolved on the way to the API server.
    if any(segment in ("", ".", "..") for segment in segments):
        raise NoSuchName(f"{'/'.join(segments)} is not a resource")
    return "/".join(["", prefix, *(quote(segment, safe="") for segment in segments)])
