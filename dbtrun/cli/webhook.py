"""`dbtrun webhook`: creates a connection's webhook in dbt Cloud, and keeps the secret that dbt Cloud shows once.

A person runs it with their own rights: the watcher has none to write Secrets.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

import click

from dbtrun.cli.cluster import Api, Place, connected
from dbtrun.cli.dbtcloud import DbtCloud, Reply
from dbtrun.cli.doctor.dbt_checks import FAULTS
from dbtrun.cli.options import cluster_options, running
from dbtrun.cli.words import one_line
from dbtrun.connection.hosts import ANY_HOST, Hosts
from dbtrun.connection.secret import LOOPBACK, WEBHOOK_KEYS, Connection, InvalidConnection, Token, parse_connection
from dbtrun.kube.errors import KubeError
from dbtrun.kube.paths import api_path

EVENTS: Final = ("job.run.started", "job.run.completed", "job.run.errored")
LISTED: Final = "webhooks/subscriptions"
ANY: Final = Hosts((ANY_HOST,), loopback=True)
"""The user may read the Secret, and so knows to which host its token goes."""
ID: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
PRESENT, PREVIOUS = WEBHOOK_KEYS


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The Secret of a connection."""

    namespace: str
    name: str
    version: str
    signs: Token | None
    """What signs webhooks now."""
    connection: Connection
    """With the token that manages webhooks."""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@click.command()
@click.argument("address", metavar="ADDRESS")
@click.option("--connection", metavar="SECRET", default="dbt-cloud", show_default=True, help="The connection's Secret.")
@click.option(
    "--job",
    "job_ids",
    type=click.IntRange(min=1),
    multiple=True,
    metavar="ID",
    help="Send webhooks for this job only. Can be repeated.",
)
@click.option("--replace", "replaces", is_flag=True, help="Replace the existing webhook and its secret.")
@cluster_options
def webhook(address: str, connection: str, job_ids: tuple[int, ...], replaces: bool, place: Place) -> None:
    """Create the webhook of a connection in dbt Cloud.

    ADDRESS is where dbt Cloud reaches the watcher's Service, for example https://hooks.example.com. The secret that
    signs the webhooks is written to the connection's Secret, and never printed. You need the rights to get and patch
    this Secret. The token in its key webhook-token, or else in token, needs the right to manage webhooks.
    """

    async def create() -> None:
        async with connected(place) as (api, namespace):
            kept = await _kept(api, namespace, connection)
            url = url_of(address, namespace, connection)
            async with DbtCloud(kept.connection) as cloud:
                await _created(api, cloud, kept, url, job_ids, replaces=replaces)

    running(create())


def url_of(address: str, namespace: str, secret: str) -> str:
    """The webhook's address.

    Raises:
        click.UsageError: dbt Cloud would not reach it, or not safely.
    """
    parts = urlsplit(address)
    if parts.query or parts.fragment or not parts.hostname or not re.fullmatch(r"[!-~]{1,1500}", address):
        raise click.UsageError("ADDRESS must be like https://hooks.example.com, without a query.")
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise click.UsageError("ADDRESS must begin with https://.")
    path = f"/hooks/{namespace}/{secret}"
    return address if address.endswith(path) else address.rstrip("/") + path


async def _kept(api: Api, namespace: str, name: str) -> Kept:
    path = api_path("api/v1", namespace, "secrets", name)
    found = json.loads(await api.request("GET", path))
    data = {key: base64.b64decode(value) for key, value in (found.get("data") or {}).items()}
    try:
        connection = parse_connection(data, f"Secret {namespace}/{name}", ANY)
    except InvalidConnection as error:
        raise click.ClickException(str(error)) from None
    signs = data.get(PRESENT, b"").decode().strip()
    return Kept(
        namespace=namespace,
        name=name,
        version=found["metadata"]["resourceVersion"],
        signs=Token(signs) if signs else None,
        connection=replace(connection, token=connection.webhook_token or connection.token),
    )


async def _created(api: Api, cloud: DbtCloud, kept: Kept, url: str, job_ids: Sequence[int], *, replaces: bool) -> None:
    listed = (await cloud.get(LISTED, version="v3")).holding(list)
    if not listed.good:
        raise click.ClickException(_why(listed))
    present = [each for each in listed.data if isinstance(each, dict) and each.get("client_url") == url]
    if present and not replaces:
        raise click.ClickException(
            f"dbt Cloud already has a webhook for {url}, and never shows its secret again. To replace it, use --replace"
        )
    # Before anything is created whose secret could not be kept.
    await _keep(api, kept, url, Token("-"), dry_run=True)
    body = {"name": f"dbtrun {kept}", "client_url": url, "event_types": EVENTS, "job_ids": job_ids, "active": True}
    made = (await cloud.ask("POST", LISTED, body=body, version="v3")).holding(dict)
    if not made.good:
        raise click.ClickException(_why(made))
    made_id, secret = str(made.data.get("id")), made.data.get("hmac_secret")
    if not secret:
        await _delete(cloud, made_id)
        raise click.ClickException("dbt Cloud created a webhook but did not return its secret.")
    try:
        await _keep(api, kept, url, Token(str(secret)))
    except KubeError:
        await _delete(cloud, made_id)
        raise
    click.echo(f"Created the webhook {one_line(made_id)} for {url}.")
    click.echo(f"Its secret is in the Secret {kept}. The watcher reads it within 30 seconds.")
    # Last: until the new webhook's secret is kept, the old one must go on.
    for each in present:
        await _delete(cloud, str(each.get("id")))


async def _keep(api: Api, kept: Kept, url: str, signs: Token, *, dry_run: bool = False) -> None:
    """Writes the secret into the Secret of the connection, unless somebody has changed that meanwhile."""
    data = {"webhook-url": url, PRESENT: signs.reveal()}
    if kept.signs is not None:
        # What the old webhook has sent, or sends until it is deleted, is still accepted.
        data[PREVIOUS] = kept.signs.reveal()
    path = api_path("api/v1", kept.namespace, "secrets", kept.name)
    body = {"metadata": {"resourceVersion": kept.version}, "stringData": data}
    await api.request("PATCH", path, query={"dryRun": "All"} if dry_run else None, body=body)


async def _delete(cloud: DbtCloud, webhook_id: str) -> None:
    """Deletes a webhook, or asks the user to: if it stays, it sends webhooks that the watcher refuses."""
    gone = bool(ID.fullmatch(webhook_id))
    if gone:
        gone = (await cloud.ask("DELETE", f"webhooks/subscription/{webhook_id}", version="v3")).good
    told = "Deleted the webhook" if gone else "Delete this webhook in dbt Cloud:"
    click.echo(f"{told} {one_line(webhook_id)}{'.' if gone else ''}", err=not gone)


def _why(reply: Reply) -> str:
    said = f": {reply.words}" if reply.words else ""
    return f"dbt Cloud's webhooks cannot be managed: {FAULTS[reply.kind].message}{said}."
