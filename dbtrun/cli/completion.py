"""Completion in shells, also of `kubectl dbtrun`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

import click
from click.shell_completion import ShellComplete, get_completion_class

from dbtrun.cli.main import PROGRAM, main

VARIABLE: Final = "_DBTRUN_COMPLETE"
NO_FILES: Final = ":4"
"""Tells kubectl, in the words of cobra, that what is printed is all and no file names are to be added."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the code that completes commands, options and the names of DbtRuns and mirrors in SHELL.

    For kubectl dbtrun nothing else is needed: kubectl's own completion asks the program kubectl_complete-dbtrun, which
    is installed with this one.
    """
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - click has these three
    click.echo(kind(main, {}, PROGRAM, VARIABLE).source())


def complete() -> None:
    """The entry point that kubectl calls with what was typed after `kubectl dbtrun`."""
    for line in completed(sys.argv[1:]):
        click.echo(line)


def completed(typed: Sequence[str]) -> list[str]:
    """What can follow; the last of `typed` is what is being typed."""
    *arguments, incomplete = typed or [""]
    found = ShellComplete(main, {}, PROGRAM, VARIABLE).get_completions(list(arguments), incomplete)
    # A tab between the word and its meaning, as cobra's programs print them for kubectl.
    return [*(f"{item.value}\t{item.help}" if item.help else str(item.value) for item in found), NO_FILES]
