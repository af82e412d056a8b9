"""python -m tests.controlplane build | run | up"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import click

from tests.controlplane import build
from tests.controlplane.errors import ControlPlaneError
from tests.controlplane.plane import ControlPlane


class _Failure(click.ClickException):
    """Shows the sentence and leaves with 1."""


@click.group(help=__doc__)
def main() -> None: ...


@main.command("build")
@click.argument("tools", nargs=-1, type=click.Choice(list(build.TOOLS)))
def build_command(tools: tuple[str, ...]) -> None:
    """Build the binaries that are missing and print where they are: these, or all that a control plane needs."""
    try:
        for name, path in build.ensure(*tools).items():
            click.echo(f"{name}\t{path}")
    except ControlPlaneError as error:
        raise _Failure(str(error)) from None


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("tool", type=click.Choice(list(build.TOOLS)))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(tool: str, arguments: tuple[str, ...]) -> None:
    """Run one of the binaries, which is built if it is missing."""
    try:
        path = build.ensure(tool)[tool]
    except ControlPlaneError as error:
        raise _Failure(str(error)) from None
    os.execv(path, [tool, *arguments])  # noqa: S606 - one of our own binaries


@main.command()
@click.option(
    "--in", "parent", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Folder to work in."
)
def up(parent: Path | None) -> None:
    """Run a control plane until Ctrl-C; its kubeconfig is printed."""
    # SIGINT too: a shell that starts it in the background has it ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        with ControlPlane(parent) as plane:
            click.echo(plane.kubeconfig)
            click.echo(f"try: kubectl --kubeconfig {plane.kubeconfig} get namespaces (Ctrl-C ends it)", err=True)
            signal.pause()
    except KeyboardInterrupt:
        click.echo("gone", err=True)
    except ControlPlaneError as error:
        raise _Failure(str(error)) from None


if __name__ == "__main__":
    main(prog_name="python -m tests.controlplane")
