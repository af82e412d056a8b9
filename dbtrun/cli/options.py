"""Options that many commands have, and how a command ends."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import click

from dbtrun.cli.cluster import Place, connected
from dbtrun.cli.ends import Exit
from dbtrun.cli.runs import Runs, bare
from dbtrun.cli.view import UnreadableRun, read
from dbtrun.cli.words import seconds
from dbtrun.kube.errors import KubeError

T = TypeVar("T")
OUTPUTS: Final = ("json", "yaml", "name")
COMPLETION_SECONDS: Final = 3.0


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--kubeconfig, --context and --namespace as of kubectl; the command gets them as `place`."""

    @click.option("--kubeconfig", metavar="FILE", help="The kubeconfig, instead of KUBECONFIG or ~/.kube/config.")
    @click.option("--context", metavar="NAME", help="The context in the kubeconfig, instead of the current one.")
    @click.option("-n", "--namespace", metavar="NAME", help="The namespace, instead of that of the context.")
    @functools.wraps(command)
    def with_place(*args: Any, kubeconfig: str | None, context: str | None, namespace: str | None, **rest: Any) -> Any:
        return command(*args, place=Place(kubeconfig, context, namespace), **rest)

    return with_place


def output_option(*more: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """-o for json, yaml, name, and whatever else a command has."""
    choices = click.Choice([*OUTPUTS, *more])
    return click.option("-o", "--output", type=choices, help="Print this instead of a text for people.")


def duration_option(flag: str, help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:  # noqa: A002
    """A duration, as 90s, 5m or 1h30m; the command gets seconds."""

    def read(_ctx: click.Context, _param: click.Parameter, value: str | None) -> float | None:
        read = None if value is None else seconds(value)
        if value is not None and read is None:
            raise click.BadParameter(f"{value!r} is not a duration: write 90s, 5m or 1h30m.")
        return read

    return click.option(flag, metavar="DURATION", callback=read, help=help)


def run_names(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    """The DbtRuns that a shell offers; none if the cluster does not answer at once."""
    place = Place(*(ctx.params.get(name) for name in ("kubeconfig", "context", "namespace")))

    async def listed() -> list[str]:
        async with asyncio.timeout(COMPLETION_SECONDS), connected(place) as (api, namespace):
            found = await Runs(api, namespace).list()
            return [read(item).name for item in found.items]

    try:
        return [name for name in asyncio.run(listed()) if name.startswith(incomplete)]
    except (KubeError, UnreadableRun, TimeoutError):
        return []


def names_argument(*, required: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """NAME..., as typed or as kubectl prints them (`dbtrun.dbtrun.dev/NAME`)."""
    return click.argument(
        "names",
        metavar="NAME..." if required else "[NAME...]",
        nargs=-1,
        required=required,
        shell_complete=run_names,
        callback=lambda _ctx, _param, names: tuple(map(bare, names)),
    )


def name_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """NAME of one DbtRun."""
    return click.argument("name", shell_complete=run_names, callback=lambda _ctx, _param, name: bare(name))(command)


def running(work: Coroutine[Any, Any, T]) -> T:
    """What the coroutine returns.

    Raises:
        click.ClickException: the API server did not do what was asked.
    """
    try:
        return asyncio.run(work)
    except (KubeError, UnreadableRun) as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        raise click.exceptions.Exit(Exit.INTERRUPTED) from None
