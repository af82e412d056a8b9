"""python -m tests.node build | up"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import click

from tests.controlplane import ControlPlaneError, build
from tests.node import Node, images, needs


class _Failure(click.ClickException):
    """Shows the sentence and leaves with 1."""


@click.group(help=__doc__)
def main() -> None: ...


@main.command("build")
def build_command() -> None:
    """Build every binary and image that is missing and print where they are."""
    if complaint := needs.complaint():
        raise _Failure(complaint)
    try:
        build.ensure()
        for path in (*build.ensure(*build.NODE_TOOLS).values(), images.pause(), images.watcher()):
            click.echo(path)
    except ControlPlaneError as error:
        raise _Failure(str(error)) from None


@main.command()
@click.option("--load", multiple=True, type=click.Path(exists=True, path_type=Path), help="An OCI archive to import.")
def up(load: tuple[Path, ...]) -> None:
    """Run a node until Ctrl-C; its kubeconfig, and what it has on this machine, are printed as one JSON line."""
    # SIGINT too: a shell that starts it in the background has it ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        with Node() as node:
            for archive in load:
                node.load(archive)
            click.echo(json.dumps({"kubeconfig": str(node.plane.kubeconfig), **node.traces}))
            signal.pause()
    except KeyboardInterrupt:
        click.echo("gone", err=True)
    except ControlPlaneError as error:
        raise _Failure(str(error)) from None


if __name__ == "__main__":
    main(prog_name="python -m tests.node")
