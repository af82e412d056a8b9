"""Where commands write: colours and a width on a terminal, whole lines of plain text elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import Any

import click
import yaml
from rich.console import Console, RenderableType


def screen(*, stderr: bool = False) -> Console:
    """Standard output, or standard error."""
    # Names and messages are other people's words: rich would obey a `[red]` in them.
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def width(console: Console) -> int | None:
    """How much fits on a line; None: nothing limits it."""
    return console.width if console.is_terminal else None


def write(console: Console, lines: Iterable[RenderableType]) -> None:
    """One line each."""
    for line in lines:
        console.print(line, soft_wrap=not console.is_terminal, overflow="ellipsis" if console.is_terminal else "ignore")


def write_object(body: Any, output: str) -> None:
    """An object as JSON or YAML."""
    if output == "json":
        click.echo(json.dumps(body, indent=2, ensure_ascii=False))
    else:
        click.echo(yaml.safe_dump(body, sort_keys=False, allow_unicode=True), nl=False)


def interactive() -> bool:
    """Whether a person can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()
