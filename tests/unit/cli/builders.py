"""DbtRuns as the command line reads them."""

from __future__ import annotations

import io
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from rich.console import Console, RenderableType

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
