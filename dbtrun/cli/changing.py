"""`dbtrun cancel` and `dbtrun retry`."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click
import msgspec

from dbtrun.cli.cluster import Place, connected
from dbtrun.cli.manifest import CANCEL, again
from dbtrun.cli.options import cluster_options, name_argument, names_argument, output_option, running
from dbtrun.cli.runs import Runs
from dbtrun.cli.starting import created
from dbtrun.cli.view import converted, read
from dbtrun.cli.waiting import waited
from dbtrun.kube.errors import KubeError


@click.command()
@names_argument
@click.option("-w", "--wait", "waits", is_flag=True, help="Wait until dbt Cloud has confirmed the end.")
@cluster_options
@click.pass_context
def cancel(ctx: click.Context, names: Sequence[str], waits: bool, place: Place) -> None:
    """Cancel the runs of DbtRuns. The DbtRuns stay, with the phase `Cancelled`."""

    async def ask() -> bool:
        async with connected(place) as (api, namespace):
            # A list and not a generator: one that cannot be cancelled must not keep the others from it.
            return all([await _cancelled(Runs(api, namespace), name) for name in names])

    done = running(ask())
    if waits and done:
        running(waited(place, names))
    ctx.exit(0 if done else 1)


async def _cancelled(runs: Runs, name: str) -> bool:
    try:
        run = read(await runs.get(name))
        if run.final:
            click.echo(f"{name} has already ended: {run.phase}.", err=True)
            return True
        await runs.patch(name, CANCEL)
    except KubeError as error:
        click.echo(f"{name}: {error}", err=True)
        return False
    click.echo(f"{name}: cancel requested.")
    return True


@click.command()
@name_argument
@click.option("--fresh", is_flag=True, help="Run the whole job again, even if dbt Cloud could resume the failed run.")
@click.option("-f", "--follow", is_flag=True, help="Follow the new run; the exit code depends on its result.")
@output_option()
@cluster_options
@click.pass_context
def retry(ctx: click.Context, name: str, fresh: bool, follow: bool, output: str | None, place: Place) -> None:
    """Repeat a DbtRun that has ended, as a new DbtRun.

    If the run failed, the new DbtRun resumes it from the point of failure.
    """

    async def start() -> msgspec.Raw:
        async with connected(place) as (api, namespace):
            runs = Runs(api, namespace)
            body = json.loads(bytes(await runs.get(name)))
            run = converted(body)
            if not run.final:
                raise click.ClickException(f"{name} has not ended: it is {run.phase}. To stop it: dbtrun cancel {name}")
            try:
                return await runs.create(again(body, run, fresh=fresh))
            except ValueError as error:
                raise click.ClickException(str(error)) from None

    new = created(running(start()), output)
    if follow:
        ctx.exit(running(waited(place, [new])))
