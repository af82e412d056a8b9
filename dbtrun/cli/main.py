"""The commands by name. A usage error prints one sentence and exits with code 2, never a traceback."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

import click

from dbtrun.kube.home import have_a_home

PROGRAM: Final = "dbtrun"
PLUGIN: Final = "kubectl-dbtrun"
"""The same program as kubectl finds it: `kubectl dbtrun …`."""
OURS: Final = ("dbtrun", "watcher", "airflow_trigger")


class Lazy(NamedTuple):
    """A command that is imported when it is used."""

    module: str
    """It has the command as an attribute of the command's name."""
    extra: str
    """The extra of the distribution that brings its libraries."""
    help: str


COMMANDS: Final = {
    "cancel": Lazy("dbtrun.cli.changing", "cli", "Cancel the runs of DbtRuns."),
    "check": Lazy("dbtrun.cli.doctor.inside", "watcher", "Check dbt Cloud from a watcher's pod."),
    "completion": Lazy("dbtrun.cli.completion", "cli", "Print the code that completes commands in a shell."),
    "describe": Lazy(
        "dbtrun.cli.reading", "cli", "Show the state of a DbtRun or a mirror, the reason, and what to do."
    ),
    "doctor": Lazy("dbtrun.cli.doctor.command", "cli", "Find what prevents a first run."),
    "get": Lazy("dbtrun.cli.reading", "cli", "List DbtRuns, or mirrors of runs."),
    "logs": Lazy("dbtrun.cli.logs", "cli", "Print the logs of a run's steps."),
    "retry": Lazy("dbtrun.cli.changing", "cli", "Repeat a DbtRun that has ended."),
    "run": Lazy("dbtrun.cli.starting", "cli", "Run a dbt Cloud job and follow it."),
    "simulate": Lazy("watcher.simulator.command", "simulator", "Run a simulated dbt Cloud on this machine."),
    "top": Lazy("dbtrun.cli.top", "cli", "Show the live runs of every namespace, as they change."),
    "wait": Lazy("dbtrun.cli.waiting", "cli", "Wait until DbtRuns have ended."),
    "webhook": Lazy("dbtrun.cli.webhook", "cli", "Create the webhook of a connection in dbt Cloud."),
    "watcher": Lazy("watcher.command", "watcher", "Run the watcher, the controller of the DbtRuns."),
}


@contextmanager
def needing(command: str, extra: str) -> Iterator[None]:
    """Around the imports of a command, whose libraries an installation need not have.

    Raises:
        click.UsageError: one of them is missing; the message says how to install it.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        # A module of ours that is missing is a defect: no installation of an extra brings it.
        if (error.name or "").partition(".")[0] in OURS:
            raise
        raise click.UsageError(f"`{command}` needs {error.name}: pip install 'dbtrun[{extra}]'.") from None


class Commands(click.Group):
    """Loads a command when it is used, and lists it whether or not it can be loaded."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """For the list of commands, and for completion: what cannot be loaded has no options."""
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        return click.Command(cmd_name, help=COMMANDS[cmd_name].help, short_help=COMMANDS[cmd_name].help)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if name not in COMMANDS:
            return name, command, rest
        try:
            return name, load(name), rest
        except click.UsageError:
            if ctx.resilient_parsing:  # of completion: there is nothing to complete
                return name, command, rest
            raise


def load(name: str) -> click.Command:
    """The command itself.

    Raises:
        click.UsageError: its libraries are not installed.
    """
    lazy = COMMANDS[name]
    have_a_home()
    with needing(name, lazy.extra):
        command = getattr(importlib.import_module(lazy.module), name)
    assert isinstance(command, click.Command)  # noqa: S101 - what the table says
    return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dbtrun", prog_name=PROGRAM)
def main() -> None:
    """dbt Cloud job runs as Kubernetes objects."""


def plugin() -> None:
    """The entry point of the plugin of kubectl, which names itself in its help as it is typed."""
    main(prog_name="kubectl dbtrun")
