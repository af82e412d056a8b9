"""The command line. A wrong word costs one sentence and exit code 2, never a traceback."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from watcher.settings import ENV_PREFIX, InvalidSetting, Settings, described, flag

LAZY: Final = {"simulate": ("watcher.simulator.command", "simulator", "Run a dbt Cloud on this machine.")}
"""Commands of extras that an image need not have: module and attribute, extra, and what `--help` says."""

TYPES: Final = {bool: click.BOOL, int: click.INT, float: click.FLOAT, str: click.STRING}


class Commands(click.Group):
    """Loads the commands of extras only when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *LAZY])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in LAZY:
            return super().get_command(ctx, cmd_name)
        module, extra, _ = LAZY[cmd_name]
        try:
            command = getattr(importlib.import_module(module), cmd_name)
        except ModuleNotFoundError as error:
            raise click.UsageError(f"`{cmd_name}` needs {error.name}: pip install 'dbtrun[{extra}]'.") from None
        assert isinstance(command, click.Command)  # noqa: S101 - what the table says
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dbtrun", prog_name="dbtrun")
def main() -> None:
    """dbt Cloud job runs as Kubernetes objects."""


def _settings_options(command: Callable[..., None]) -> Callable[..., None]:
    """One option for each setting, with its DBTRUN_* variable."""
    for name, doc, default in reversed(described()):
        command = click.option(
            flag(name),
            name,
            type=TYPES[type(default)],
            default=default,
            envvar=ENV_PREFIX + name.upper(),
            show_envvar=True,
            show_default=True,
            help=doc,
        )(command)
    return command


def _have_a_home() -> None:
    """Sets HOME where there is none, as container runtimes do: kubernetes_asyncio cannot be imported without one."""
    try:
        Path.home()
    except RuntimeError:  # the uid has no passwd entry either
        os.environ["HOME"] = "/"


@main.command()
@_settings_options
def run(**values: Any) -> None:
    """Run the watcher: start, follow and end dbt Cloud runs as DbtRuns say."""
    # Modules stay: without the collector, now and later, they load in three quarters of the time, and each of its full
    # passes, in which the loop stands still, is 50 ms shorter.
    gc.disable()
    _have_a_home()
    from watcher.app import Unstartable, watch

    gc.freeze()
    gc.enable()

    try:
        settings = Settings(**values)
    except InvalidSetting as error:
        raise click.UsageError(str(error)) from None
    try:
        asyncio.run(watch(settings))
    except Unstartable as error:
        raise click.ClickException(str(error)) from None
