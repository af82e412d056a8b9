"""DbtRuns as the command line reads them."""

from __future__ import annotations

import io
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec
from rich.console import Console, RenderableType

from dbtrun.cli.mirrors.view import Mirror
from dbtrun.cli.mirrors.view import read as read_mirror
from dbtrun.cli.screen import write
from dbtrun.cli.view import Run, converted

NOW: Final = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)


def ago(**period: float) -> str:
    """A moment before now, as the API server writes it."""
    return (NOW - timedelta(**period)).strftime("%Y-%m-%dT%H:%M:%SZ")


def body(
    name: str = "nightly-x7k2p", *, spec: Any = None, created: str = ago(hours=2), **status: Any
) -> dict[str, Any]:
    """An object as the API server has it."""
    metadata = {
        "name": name, "namespace": "data", "uid": "u1", "resourceVersion": "7", "creationTimestamp": created,
    }  # fmt: skip
    return {
        "apiVersion": "dbtrun.dev/v1alpha1",
        "kind": "DbtRun",
        "metadata": metadata,
        "spec": {"job": {"id": 98765}} if spec is None else spec,
        "status": status,
    }


def run(name: str = "nightly-x7k2p", **more: Any) -> Run:
    """The same, read."""
    return converted(body(name, **more))


def mirror(name: str = "nightly", *, spec: Any = None, created: str = ago(days=2), **status: Any) -> Mirror:
    """A DbtRunMirror that works, unless the status says otherwise."""
    metadata = {"name": name, "namespace": "data", "uid": "u2", "creationTimestamp": created}
    body = {"metadata": metadata, "spec": spec or {"select": {"jobIds": [98765], "causes": ["scheduled"]}}}
    return read_mirror(msgspec.json.encode(body | {"status": {"conditions": conditions()} | status}))


def conditions(**changed: tuple[str, str, str]) -> list[dict[str, str]]:
    """Those of a mirror that works, unless told otherwise: status, reason and message of each."""
    told = {
        "Ready": ("True", "Mirroring", "Runs that match appear as DbtRuns."),
        "Reachable": ("True", "Answering", "dbt Cloud answers."),
        "CaughtUp": ("True", "CaughtUp", "Every run that matches and has finished has its DbtRun."),
    } | changed
    return [
        {"type": kind, "status": one[0], "reason": one[1], "message": one[2], "lastTransitionTime": ago(minutes=3)}
        for kind, one in told.items()
    ]


def shown(lines: Iterable[RenderableType], width: int | None = None, *, colour: bool = False) -> str:
    """What a terminal of this width shows; None: what a pipe gets."""
    file = io.StringIO()
    terminal = width is not None
    console = Console(
        file=file, width=width, force_terminal=terminal, color_system="standard" if colour else None, markup=False,
        highlight=False, emoji=False, _environ={},
    )  # fmt: skip
    write(console, lines)
    return file.getvalue()
