"""The command line. A wrong word costs one sentence and exit code 2, never a traceback."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import importlib
import importlib.util
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import click

from dbtrun.api.home import have_a_home
from watcher.settings import ENV_PREFIX, InvalidSetting, Settings, described, flag

OTHERS: Final = {"simulate": ("watcher.simulator.command", "simulator", "Run a dbt Cloud on this machine.")}
"""Commands that are loaded when they are used: module and attribute, extra, and what `dbtrun --help` says of them."""
OURS: Final = ("watcher", "airflow_trigger")
M_MMAP_THRESHOLD: Final = -3
"""Of malloc.h."""
LARGE_BLOCK: Final = 128 * 1024
"""Bytes; glibc's default at the start of a process."""

TYPES: Final = {bool: click.BOOL, int: click.INT, float: click.FLOAT, str: click.STRING}


@contextmanager
def _extra(command: str, extra: str) -> Iterator[None]:
    """Around the imports of a command, whose libraries an installation need not have.

    Raises:
        click.UsageError: one of them is missing; the message says how to install it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in OURS:
            raise
        raise click.UsageError(f"`{command}` needs {error.name}: pip install 'dbtrun[{extra}]'.") from None


class Commands(click.Group):
    """Loads a command of another module when it is used, and lists it whether or not it can be loaded."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *OTHERS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self._listed(cmd_name) if cmd_name in OTHERS else super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, self._loaded(name) if name in OTHERS else command, rest

    def _listed(self, name: str) -> click.Command:
        return click.Command(name, help=OTHERS[name][2])

    def _loaded(self, name: str) -> click.Command:
        module, extra, _ = OTHERS[name]
        with _extra(name, extra):
            command = getattr(importlib.import_module(module), name)
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


def _obey_from_the_start() -> None:
    """SIGTERM ends the process until the watcher handles it: nothing is under way yet.

    A container's process 1 ignores a signal that it does not handle. Without this, a pod that is deleted while its
    watcher starts, for seconds on a busy node, would stay until its grace period is over.
    """
    signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(0))


def _give_memory_back() -> None:
    """Large blocks go back to the system when they are freed.

    By default glibc raises the size from which it does that up to 32 MB, once large blocks were freed (mallopt(3),
    M_MMAP_THRESHOLD). Then replies of some megabytes leave holes between smaller blocks, and the memory only grows.
    """
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)


@main.command()
@_settings_options
def run(**values: Any) -> None:
    """Run the watcher: start, follow and end dbt Cloud runs as DbtRuns say."""
    _obey_from_the_start()
    _give_memory_back()
    # Modules stay: without the collector, now and later, they load in three quarters of the time, and each of its full
    # passes, in which the loop stands still, is 50 ms shorter.
    gc.disable()
    have_a_home()
    with _extra("run", "watcher"):
        if not importlib.util.find_spec("kopf"):  # imported later, in its own thread
            raise ModuleNotFoundError(name="kopf")
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
