"""`dbtrun logs`: from the status, and with a token from dbt Cloud itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import click
import msgspec

from dbtrun.api import Phase
from dbtrun.cli.cluster import Api, Place, connected
from dbtrun.cli.dbtcloud import DbtCloud, Kind
from dbtrun.cli.doctor.dbt_checks import FAULTS
from dbtrun.cli.options import cluster_options, name_argument, running
from dbtrun.cli.runs import Runs
from dbtrun.cli.view import Run, read
from dbtrun.cli.words import between, one_line
from dbtrun.connection.hosts import ANY_HOST, DBT_HOSTS, Hosts
from dbtrun.connection.secret import Connection, InvalidConnection, parse_connection
from dbtrun.kube.reader import Reader
from dbtrun.scrub import scrub
from dbtrun.text import plain, printable

TOKEN: Final = "DBT_CLOUD_TOKEN"  # noqa: S105 - the name of a variable
PAUSE: Final = 5.0
"""Seconds between two looks with --follow."""
MAX_BODY: Final = 32 * 1024 * 1024
"""Bytes of all the logs of a run."""
SECONDS: Final = 60.0
"""For reading them."""
BLOCK: Final = 16_000
"""Characters that are searched for secrets at a time, at least."""
OVER: Final = frozenset({"Success", "Error", "Cancelled", "Skipped"})
"""dbt Cloud's words for a step that has ended."""


@click.command()
@name_argument
@click.option("-f", "--follow", is_flag=True, help="Continue until the run has ended.")
@click.option("--step", "only", type=click.IntRange(min=1), metavar="NUMBER", help="Print the log of this step only.")
@click.option(
    "--secret", is_flag=True, help="Use the token in the Secret that spec.connectionRef names, if you may read it."
)
@click.option("--host", help=f"Send the token in {TOKEN} to this host, which is not one of dbt Cloud's own.")
@cluster_options
def logs(name: str, follow: bool, only: int | None, secret: bool, host: str | None, place: Place) -> None:
    """Print the logs of a run's steps.

    Without a token, it prints the steps and the end of the failed step's log, both from the status. With a token in
    the variable DBT_CLOUD_TOKEN, or with --secret, it prints the whole logs from dbt Cloud. With --follow, the watcher
    reads the steps every few seconds, if you may patch DbtRuns.
    """
    running(_told(place, name, only, secret=secret, host=host, follow=follow))


async def _told(place: Place, name: str, only: int | None, *, secret: bool, host: str | None, follow: bool) -> None:
    news = News(only)
    async with connected(place) as (api, namespace):
        runs = Runs(api, namespace)
        reader = Reader(runs.patch)
        while True:
            run = read(await runs.get(name))
            connection = await _connection(api, run, host, secret=secret)
            # Both must be over: after a run that has failed, another attempt may follow, and its log is wanted too.
            over = await _from_dbt_cloud(connection, run, news) if connection else run.final
            if connection is None:
                _print(news.of_status(run))
            if not follow or (over and run.final):
                break
            if connection is None and run.phase == Phase.RUNNING:
                await reader.ask(name, run.metadata.annotations, api.now)
            await asyncio.sleep(PAUSE)
    if not news.told:
        click.echo(f"{name} has no steps yet: it is {run.phase}.", err=True)
    elif connection is None:
        click.echo(f"For the whole logs, set {TOKEN} or use --secret.", err=True)


async def _from_dbt_cloud(connection: Connection, run: Run, news: News) -> bool:
    """Prints what is new; whether the run is over."""
    if run.run_id is None:
        return run.final
    async with DbtCloud(connection) as cloud:
        query = {"include_related": '["run_steps"]'}
        asked = await cloud.ask("GET", f"runs/{run.run_id}/", query, limit=MAX_BODY, seconds=SECONDS)
    reply = asked.holding(dict)
    if not reply.good:
        why = FAULTS[reply.kind].message
        if reply.kind is Kind.TOO_LARGE:
            url = one_line(run.status.url or "")
            why = f"they are larger than {MAX_BODY // 1024**2} MB; read them in dbt Cloud: {url}"
        raise click.ClickException(f"The logs cannot be read: {why}.")
    steps = reply.data.get("run_steps")
    _print(news.of_dbt_cloud(run.run_id, steps if isinstance(steps, list) else [], connection.token.reveal()))
    return reply.data.get("status") in (10, 20, 30)


def _print(lines: Iterator[str]) -> None:
    for line in lines:
        click.echo(line)


@dataclass
class News:
    """What of the logs was not printed yet. Pure."""

    only: int | None = None
    """The only step whose log is wanted."""
    told: dict[tuple[int, int], int] = field(default_factory=dict)
    """Characters of the log of each run and step that are printed."""
    states: dict[tuple[int, int], str] = field(default_factory=dict)

    def of_dbt_cloud(self, run_id: int, steps: Sequence[Any], token: str = "") -> Iterator[str]:
        """What dbt Cloud's steps say that was not printed; the token and other secrets are masked."""
        for step in steps:
            if not isinstance(step, dict) or not isinstance(step.get("index"), int):
                continue
            key = (run_id, step["index"])
            if self.only not in (None, step["index"]) or not step.get("started_at"):
                continue
            if key not in self.told:
                yield f"==> {step['index']}. {one_line(str(step.get('name')))}"
            given = step.get("logs")
            log = given if isinstance(given, str) else ""
            whole = log if step.get("finished_at") else log[: log.rfind("\n") + 1]  # a line may be half written
            # dbt Cloud returns each log from its beginning, every time.
            begin, self.told[key] = self.told.get(key, 0), len(whole)
            for block in _blocks(whole, begin):
                yield from scrub(printable(block), token).splitlines()

    def of_status(self, run: Run) -> Iterator[str]:
        """What the status says that was not printed."""
        for step in run.status.steps:
            key = (run.run_id or 0, step.index)
            if self.only not in (None, step.index) or self.states.get(key) == step.status:
                continue
            self.states[key] = step.status
            self.told[key] = 0
            took = between(step.started_at, step.finished_at) if step.status in OVER else ""
            yield f"{step.index}. {one_line(step.name)}: {one_line(step.status)}{f' after {took}' if took else ''}"
        failed = run.status.failed_step
        if failed is None or self.only not in (None, failed.index):
            return
        key = (run.run_id or 0, failed.index)
        if self.told.get(key, 0) < len(failed.log_tail):
            self.told[key] = len(failed.log_tail)
            yield f"==> {failed.index}. {one_line(failed.name)}: the end of its log"
            yield from plain(failed.log_tail).splitlines()


def _blocks(text: str, begin: int) -> Iterator[str]:
    """The text from there on, in pieces of whole lines: the rules for secrets never see all of a large log."""
    while begin < len(text):
        end = text.find("\n", begin + BLOCK)
        end = len(text) if end < 0 else end + 1
        yield text[begin:end]
        begin = end


async def _connection(api: Api, run: Run, host: str | None, *, secret: bool) -> Connection | None:
    """How dbt Cloud is asked; None: not at all.

    Raises:
        click.ClickException: there is a token, and it may not be sent.
    """
    if secret:
        reference = run.spec.connection_ref
        if reference is None:
            raise click.ClickException(f"{run.name} uses the watcher's default connection: give a token with {TOKEN}.")
        path = f"/api/v1/namespaces/{run.metadata.namespace}/secrets/{reference.name}"
        body = msgspec.json.decode(await api.request("GET", path), type=_Secret)
        return _parsed(body.data, f"Secret {reference.name}")
    token = os.environ.get(TOKEN)
    if not token or run.status.account_id is None:
        return None
    named = run.status.host or DBT_HOSTS[0]
    # Anyone who may write a status could name any host there, and would get the token of the user who reads the logs.
    if host is None and not Hosts().allow(named.partition(":")[0]):
        raise click.ClickException(
            f"The status names the host {one_line(named)}, which is not dbt Cloud's: to send your "
            f"token there, add --host {one_line(named)}"
        )
    keys = {"token": token, "account-id": str(run.status.account_id), "host": host or named}
    return _parsed({key: value.encode() for key, value in keys.items()}, f"{TOKEN} and the status")


class _Secret(msgspec.Struct):
    data: dict[str, bytes] = {}


def _parsed(data: dict[str, bytes], where: str) -> Connection:
    try:
        return parse_connection(data, where, Hosts((ANY_HOST,), loopback=True))
    except InvalidConnection as error:
        raise click.ClickException(str(error)) from None
