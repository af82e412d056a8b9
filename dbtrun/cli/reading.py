"""`dbtrun get` and `dbtrun describe`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import click
import msgspec
from rich.text import Text

from dbtrun.api import API_VERSION, GROUP, KIND, MIRROR_LABEL
from dbtrun.api.mirrors import MIRROR_KIND
from dbtrun.cli.cluster import Api, Place, connected
from dbtrun.cli.description import described
from dbtrun.cli.kinds import Asked
from dbtrun.cli.mirrors.description import described as mirror_described
from dbtrun.cli.mirrors.rows import table as mirror_table
from dbtrun.cli.mirrors.view import read as read_mirror
from dbtrun.cli.options import cluster_options, objects_argument, output_option, running
from dbtrun.cli.rows import table
from dbtrun.cli.runs import PAGE, Runs, as_stored
from dbtrun.cli.screen import screen, width, write, write_object
from dbtrun.cli.sections import Event
from dbtrun.cli.view import Meta, read
from dbtrun.kube.answers import decode
from dbtrun.kube.errors import KubeError
from dbtrun.kube.runs import DbtRunMirrors, DbtRuns

MAX_EVENTS = 10
NEVER = datetime.min.replace(tzinfo=UTC)


@click.command()
@objects_argument("[mirrors] [NAME...]", required=False)
@click.option("-A", "--all-namespaces", is_flag=True, help="List the objects of every namespace.")
@click.option("-l", "--selector", metavar="LABELS", help="Only objects with these labels, such as `team=a`.")
@output_option("wide")
@cluster_options
def get(wanted: Asked, all_namespaces: bool, selector: str | None, output: str | None, place: Place) -> None:
    """List DbtRuns, or mirrors of runs, oldest first."""
    if wanted.names and (all_namespaces or selector):
        raise click.UsageError("NAME cannot be combined with -A or -l.")
    items = running(_found(wanted, place, selector, every=all_namespaces))
    kind = MIRROR_KIND if wanted.mirrors else KIND
    if output in ("json", "yaml"):
        bodies = [json.loads(bytes(item)) for item in items]
        single = bodies[0] if len(wanted.names) == 1 else {"apiVersion": "v1", "kind": "List", "items": bodies}
        for item in single.get("items", ()):
            # Items of a list lack the two fields without which kubectl does not know what they are.
            item.setdefault("apiVersion", API_VERSION)
            item.setdefault("kind", kind)
        write_object(single, output)
        return
    if output == "name":
        for item in items:
            click.echo(f"{kind.lower()}.{GROUP}/{json.loads(bytes(item))['metadata']['name']}")
        return
    if not items:
        click.echo(f"No {kind}s found.", err=True)
        return
    out = screen()
    rows = _mirror_rows if wanted.mirrors else _run_rows
    write(out, rows(items, width=width(out), namespaces=all_namespaces, wide=output == "wide"))


def _run_rows(items: Iterable[msgspec.Raw], **shape: Any) -> list[Text]:
    return table(sorted(map(read, items), key=lambda run: _age(run.metadata)), datetime.now(UTC), **shape)


def _mirror_rows(items: Iterable[msgspec.Raw], **shape: Any) -> list[Text]:
    found = sorted(map(read_mirror, items), key=lambda mirror: _age(mirror.metadata))
    return mirror_table(found, datetime.now(UTC), **shape)


def _age(metadata: Meta) -> tuple[str, datetime]:
    return metadata.namespace, metadata.creation_timestamp or NEVER


async def _found(wanted: Asked, place: Place, selector: str | None, *, every: bool) -> Sequence[msgspec.Raw]:
    async with connected(place) as (api, namespace):
        kind = DbtRunMirrors if wanted.mirrors else DbtRuns
        stored = kind(api, None if every else namespace, as_stored, page=PAGE)
        if wanted.names:
            return [await stored.get(name) for name in wanted.names]
        return await stored.list(labels=selector or "")


@click.command()
@objects_argument("[mirror] NAME", required=True)
@cluster_options
def describe(wanted: Asked, place: Place) -> None:
    """Show the state of a DbtRun or a mirror, the reason, and what to do."""
    if len(wanted.names) != 1:
        raise click.UsageError("Name one DbtRun, or one mirror: dbtrun describe mirror NAME")
    look = _mirror if wanted.mirrors else _run
    write(screen(), running(look(place, *wanted.names)))


async def _run(place: Place, name: str) -> Iterator[Text]:
    async with connected(place) as (api, namespace):
        body = await Runs(api, namespace).get(name)
        return described(read(body), await events(api, namespace, name), datetime.now(UTC))


async def _mirror(place: Place, name: str) -> Iterator[Text]:
    async with connected(place) as (api, namespace):
        mirror = await DbtRunMirrors(api, namespace, read_mirror).get(name)
        runs = await DbtRuns(api, namespace, read, page=PAGE).list(labels=f"{MIRROR_LABEL}={name}")
        seen = await events(api, namespace, name, MIRROR_KIND)
        return mirror_described(mirror, [run.phase for run in runs], seen, datetime.now(UTC))


async def events(api: Api, namespace: str, name: str, kind: str = KIND) -> list[Event]:
    """The last Events of an object; none if the user may not read them."""
    path = f"/apis/events.k8s.io/v1/namespaces/{namespace}/events"
    query = {"fieldSelector": f"regarding.kind={kind},regarding.name={name}", "limit": "500"}
    try:
        # The API server sorts nothing: the last ones are found here.
        listed = decode(await api.request("GET", path, query=query), _Events)
    except KubeError:
        return []
    return sorted(listed.items, key=lambda event: event.event_time or NEVER)[-MAX_EVENTS:]


class _Events(msgspec.Struct):
    items: list[Event]
