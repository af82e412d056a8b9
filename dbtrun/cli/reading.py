"""`dbtrun get` and `dbtrun describe`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime

import click
import msgspec

from dbtrun.api import API_VERSION, GROUP, KIND
from dbtrun.cli.cluster import Api, Place, connected
from dbtrun.cli.description import Event, described
from dbtrun.cli.options import cluster_options, name_argument, names_argument, output_option, running
from dbtrun.cli.rows import table
from dbtrun.cli.runs import Runs
from dbtrun.cli.screen import screen, width, write, write_object
from dbtrun.cli.view import read
from dbtrun.kube.answers import decode
from dbtrun.kube.errors import KubeError

MAX_EVENTS = 10


@click.command()
@names_argument(required=False)
@click.option("-A", "--all-namespaces", is_flag=True, help="Of every namespace.")
@click.option("-l", "--selector", metavar="LABELS", help="Only those with these labels, as `team=a`.")
@output_option("wide")
@cluster_options
def get(names: Sequence[str], all_namespaces: bool, selector: str | None, output: str | None, place: Place) -> None:
    """List DbtRuns, oldest first."""
    if names and (all_namespaces or selector):
        raise click.UsageError("NAME goes neither with -A nor with -l.")
    items = running(_found(names, place, selector, every=all_namespaces))
    if output in ("json", "yaml"):
        bodies = [json.loads(bytes(item)) for item in items]
        single = bodies[0] if len(names) == 1 else {"apiVersion": "v1", "kind": "List", "items": bodies}
        for item in single.get("items", ()):
            # Items of a list lack the two fields without which kubectl does not know what they are.
            item.setdefault("apiVersion", API_VERSION)
            item.setdefault("kind", KIND)
        write_object(single, output)
        return
    runs = sorted(map(read, items), key=lambda run: (run.metadata.namespace, run.metadata.creation_timestamp or NEVER))
    if output == "name":
        for run in runs:
            click.echo(f"{KIND.lower()}.{GROUP}/{run.name}")
        return
    if not runs:
        click.echo("No DbtRuns found.", err=True)
        return
    out = screen()
    told = table(runs, datetime.now(UTC), width=width(out), namespaces=all_namespaces, wide=output == "wide")
    write(out, told)


NEVER = datetime.min.replace(tzinfo=UTC)


async def _found(names: Sequence[str], place: Place, selector: str | None, *, every: bool) -> Sequence[msgspec.Raw]:
    async with connected(place) as (api, namespace):
        runs = Runs(api, None if every else namespace)
        if names:
            return [await runs.get(name) for name in names]
        return (await runs.list(labels=selector or "")).items


@click.command()
@name_argument
@cluster_options
def describe(name: str, place: Place) -> None:
    """Show the state of a DbtRun, the reason, and what to do."""

    async def read_it() -> tuple[msgspec.Raw, list[Event]]:
        async with connected(place) as (api, namespace):
            return await Runs(api, namespace).get(name), await events(api, namespace, name)

    body, seen = running(read_it())
    out = screen()
    write(out, described(read(body), seen, datetime.now(UTC)))


async def events(api: Api, namespace: str, name: str) -> list[Event]:
    """The last Events of a DbtRun; none if the user may not read them."""
    path = f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
    query = {"fieldSelector": f"regarding.kind={KIND},regarding.name={name}", "limit": "500"}
    try:
        listed = decode(await api.request("GET", path, query=query), _Events)
    except KubeError:
        return []
    return sorted(listed.items, key=lambda event: event.event_time or NEVER)[-MAX_EVENTS:]


class _Events(msgspec.Struct):
    items: list[Event]
