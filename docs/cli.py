# ruff: noqa: INP001 - docs is a folder of pages, not a package
"""The commands with their options and exit codes, as click knows them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Final

import click

from dbtrun.cli.ends import MEANINGS
from dbtrun.cli.main import COMMANDS, PROGRAM, load

HEAD: Final = """\
# Commands of `dbtrun`

`docs/generate.py` generates this page from the commands: change those instead. [The command line](cli.md) shows how to
use them.

`--kubeconfig FILE`, `--context NAME` and `-n`, `--namespace NAME` choose the cluster and the namespace, as with
kubectl. Every command has these options, except check, completion, simulate and watcher. They are not repeated below.

"""
COLUMNS: Final = ("Option", "Meaning", "Default")
CODES: Final = """

## Exit codes

If a command waits for several runs, its exit code is that of the first run, in the order of the arguments, that did not
succeed.

"""
CODE_COLUMNS: Final = ("Code", "Meaning")
OF_ALL: Final = frozenset({"kubeconfig", "context", "namespace"})
ELSEWHERE: Final = {"watcher": "[Settings of the watcher](settings.md) lists its options."}
"""Commands whose options have a page of their own."""


class Section:
    """One command."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._command = load(name)

    @property
    def text(self) -> str:
        """What it does, as its help says it."""
        return inspect.cleandoc(self._command.help or "")

    @property
    def usage(self) -> str:
        """How it is typed."""
        context = click.Context(self._command, info_name=f"{PROGRAM} {self.name}")
        return " ".join([context.command_path, *self._command.collect_usage_pieces(context)])

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Its options, without those of every command that uses the cluster."""
        context = click.Context(self._command, info_name=self.name)
        names = {option.name for option in self._command.params}
        usual = OF_ALL if names >= OF_ALL else frozenset()
        for option in self._command.params:
            if isinstance(option, click.Option) and option.name not in usual:
                flags = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
                metavar = "" if option.is_flag else f" {_metavar(option, context)}"
                yield flags + metavar, _escaped(option.help or ""), _default(option)


def sections() -> Iterator[Section]:
    """Every command."""
    for name in COMMANDS:
        yield Section(name)


def codes() -> Iterator[tuple[str, str]]:
    """Every exit code."""
    for code, meaning in MEANINGS.items():
        yield str(int(code)), meaning


def _metavar(option: click.Option, context: click.Context) -> str:
    if isinstance(option.type, click.Choice):
        return ", ".join(f"`{choice}`" for choice in option.type.choices)
    return _escaped(option.metavar or option.make_metavar(context))


def _default(option: click.Option) -> str:
    default = option.to_info_dict()["default"]
    plain = isinstance(default, str | int | float) and not isinstance(default, bool) and default not in (0, "")
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`" if plain else ""


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "\\<")
