"""Options that many commands have, and how a command ends."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

import click

from dbtrun.cli.cluster import Api, Place, connected
from dbtrun.cli.ends import Exit
from dbtrun.cli.kinds import about_mirrors, asked, bare
from dbtrun.cli.mirrors.view import read as read_mirror
from dbtrun.cli.runs import Runs
from dbtrun.cli.view import UnreadableRun, read
from dbtrun.cli.words import seconds
from dbtrun.kube.errors import KubeError
from dbtrun.kube.runs import DbtRunMirrors

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
    return click.option("-o", "--output", type=choices, help="Print this format instead of text for people.")


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
    return _offered(ctx, incomplete, _run_names)


def object_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The same, or DbtRunMirrors after a word for them; and that word, where nothing was typed before."""
    typed = ctx.params.get(param.name or "") or ()
    if typed and about_mirrors(typed[0]):
        return _offered(ctx, incomplete, _mirror_names)
    word = ["mirrors"] if not typed and incomplete and "mirrors".startswith(incomplete) else []
    return [*_offered(ctx, incomplete, _run_names), *word]


def _offered(
    ctx: click.Context, incomplete: str, listed: Callable[[Api, str], Coroutine[Any, Any, list[str]]]
) -> list[str]:
    place = Place(*(ctx.params.get(name) for name in ("kubeconfig", "context", "namespace")))

    async def names() -> list[str]:
        async with asyncio.timeout(COMPLETION_SECONDS), connected(place) as (api, namespace):
            return await listed(api, namespace)

    # Whatever goes wrong, nothing is offered: a message would land in the line that is being typed.
    try:
        return [name for name in asyncio.run(names()) if name.startswith(incomplete)]
    except (KubeError, UnreadableRun, TimeoutError):
        return []


async def _run_names(api: Api, namespace: str) -> list[str]:
    return [read(item).name for item in (await Runs(api, namespace).list()).items]


async def _mirror_names(api: Api, namespace: str) -> list[str]:
    return [mirror.name for mirror in await DbtRunMirrors(api, namespace, read_mirror).list()]


def objects_argument(metavar: str, *, required: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Names of DbtRuns, or of DbtRunMirrors after the word `mirrors`; the command gets them as `wanted`."""

    def with_wanted(command: Callable[..., Any]) -> Callable[..., Any]:
        @click.argument("words", metavar=metavar, nargs=-1, required=required, shell_complete=object_names)
        @functools.wraps(command)
        def parsed(*args: Any, words: tuple[str, ...], **rest: Any) -> Any:
            return command(*args, wanted=asked(words), **rest)

        return parsed

    return with_wanted


def names_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """NAME..., as typed or as kubectl prints them (`dbtrun.dbtrun.dev/NAME`)."""
    return click.argument(
        "names",
        metavar="NAME...",
        nargs=-1,
        required=True,
        shell_complete=run_names,
        callback=lambda _ctx, _param, names: tuple(map(bare, names)),
    )(command)


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
