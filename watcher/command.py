"""`dbtrun watcher`: every setting is an option."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import importlib.util
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import click

from dbtrun.cli.main import needing
from dbtrun.kube.home import have_a_home
from watcher.settings import ENV_PREFIX, InvalidSetting, Settings, described, flag

M_MMAP_THRESHOLD: Final = -3
"""Of malloc.h."""
LARGE_BLOCK: Final = 128 * 1024
"""Bytes; glibc's default at the start of a process."""

TYPES: Final = {bool: click.BOOL, int: click.INT, float: click.FLOAT, str: click.STRING}


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


@click.command()
@_settings_options
def watcher(**values: Any) -> None:
    """Run the watcher, which starts, follows and cancels dbt Cloud runs as DbtRuns specify."""
    # Until the watcher handles SIGTERM, nothing is under way, and the signal ends the process. A container's process 1
    # ignores a signal that it does not handle: without this, a pod that is deleted while its watcher starts, for
    # seconds on a busy node, would stay until its grace period is over.
    signal.signal(signal.SIGTERM, lambda _number, _frame: os._exit(0))
    # Large blocks go back to the system when they are freed. By default, once large blocks were freed, glibc raises the
    # size from which it does that up to 32 MB (mallopt(3), M_MMAP_THRESHOLD). Then replies of some megabytes leave
    # holes between smaller blocks, and the memory only grows.
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK)
    # Modules stay: without the collector, now and later, they load in three quarters of the time, and each of its full
    # passes, in which the loop stands still, is 50 ms shorter.
    gc.disable()
    have_a_home()
    with needing("watcher", "watcher"):
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
