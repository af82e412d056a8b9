"""`dbtrun doctor`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import click
import yaml
from rich.text import Text

from dbtrun.cli.cluster import Api, Place, connected
from dbtrun.cli.dbtcloud import DbtCloud
from dbtrun.cli.doctor import (
    assumptions,
    cluster_checks,
    cluster_facts,
    dbt_checks,
    dbt_facts,
    mirror_checks,
    pod,
    record,
)
from dbtrun.cli.doctor.finding import Finding, Verdict, as_json, bad, trouble, unknown
from dbtrun.cli.options import cluster_options, running
from dbtrun.cli.screen import screen, write, write_object
from dbtrun.connection.hosts import ANY_HOST, Hosts
from dbtrun.connection.secret import Connection, InvalidConnection, parse_connection
from dbtrun.kube.errors import Forbidden, KubeError, Misconfigured, Unauthorized

TOTAL_SECONDS: Final = 115.0
"""For everything: a check that takes longer helps nobody."""
TOKEN: Final = "DBT_CLOUD_TOKEN"  # noqa: S105 - the name of a variable
ANY: Final = Hosts((ANY_HOST,), loopback=True)
"""Hosts that the user may name for a token of their own."""

MARKS: Final = {
    Verdict.GOOD: ("✓", "green"),
    Verdict.WARNING: ("!", "yellow"),
    Verdict.BAD: ("✗", "red"),
    Verdict.UNKNOWN: ("?", "dim"),
}


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to be checked."""

    place: Place
    connection: str | None
    job_id: int | None
    start: bool
    cluster: bool
    from_pod: bool
    """Whether the pod of the watcher asks dbt Cloud."""
    own: Connection | None
    """The connection that the user gave, instead of that of the cluster."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was found."""

    cluster: tuple[Finding, ...] = ()
    dbt: tuple[Finding, ...] = ()
    record: dict[str, Any] | None = None
    """What dbt Cloud is like, as a scenario of the simulator; None: it was not asked."""
    requests: int = 0

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All of them."""
        return self.cluster + self.dbt


@click.command()
@click.option(
    "--connection", metavar="SECRET", help="The Secret that runs are to use, instead of the default connection."
)
@click.option("--job", "job_id", type=click.IntRange(min=1), metavar="ID", help="The job that you want to run.")
@click.option(
    "--start",
    type=click.IntRange(min=1),
    metavar="ID",
    help="Start a run of this job in dbt Cloud, find it, and cancel it immediately. Without this, nothing is changed.",
)
@click.option("--host", help=f"dbt Cloud's host, for a token in {TOKEN}.")
@click.option("--account-id", type=click.IntRange(min=1), metavar="ID", help="The account of that token.")
@click.option(
    "--from-pod",
    is_flag=True,
    help="Check dbt Cloud from the pod of the watcher, with its network and its token. Needs the rights to list "
    "Deployments, to get the Lease, and to use pods/exec.",
)
@click.option("--no-cluster", is_flag=True, help=f"Check dbt Cloud alone, with a token in {TOKEN}.")
@click.option(
    "--record",
    "file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write a scenario for `dbtrun simulate --config` that behaves like your account, without names.",
)
@click.option("-o", "--output", type=click.Choice(["json"]), help="Print the findings as JSON.")
@cluster_options
@click.pass_context
def doctor(
    ctx: click.Context,
    /,
    place: Place,
    connection: str | None,
    job_id: int | None,
    start: int | None,
    host: str | None,
    account_id: int | None,
    from_pod: bool,
    no_cluster: bool,
    file: Path | None,
    output: str | None,
) -> None:
    """Find what prevents a first run.

    Checks the cluster, the watcher, your rights, the connection and dbt Cloud. The exit code is 1 if there is a
    problem.
    """
    wish = Wish(
        place=place,
        connection=connection,
        job_id=start or job_id,
        start=start is not None,
        cluster=not no_cluster,
        from_pod=from_pod,
        own=_own(host, account_id),
    )
    if from_pod and (no_cluster or host or account_id):
        raise click.UsageError(
            "--from-pod uses the watcher's connection: leave out --no-cluster, --host and --account-id."
        )
    if no_cluster and wish.own is None:
        raise click.UsageError(f"--no-cluster needs a token in {TOKEN}, --host and --account-id.")
    try:
        # Off a terminal, rich draws nothing.
        with screen(stderr=True).status("") as status:
            report = running(asyncio.wait_for(_examined(wish, status.update), TOTAL_SECONDS))
    except TimeoutError:
        raise click.ClickException(f"Not finished after {TOTAL_SECONDS:.0f} s.") from None
    rows = [assumptions.of(each, report.findings) for each in assumptions.ASSUMPTIONS]
    if file is not None:
        if report.record is None:
            raise click.ClickException("dbt Cloud was not asked, so there is nothing to record.")
        file.write_text(yaml.safe_dump(report.record, sort_keys=False))
    if output == "json":
        write_object(
            {"findings": as_json(report.findings), "assumptions": as_json(rows), "requests": report.requests}, output
        )
    else:
        out = screen()
        for title, findings in (("Cluster", report.cluster), ("dbt Cloud", report.dbt), ("Assumptions", rows)):
            write(out, _lines(title, findings))
    ctx.exit(1 if trouble(report.findings) else 0)


def _own(host: str | None, account_id: int | None) -> Connection | None:
    token = os.environ.get(TOKEN)
    if token is None or account_id is None:
        if host or account_id:
            raise click.UsageError(f"--host and --account-id go together with a token in {TOKEN}.")
        return None
    keys = {"token": token.encode(), "account-id": str(account_id).encode()}
    if host:
        keys["host"] = host.encode()
    if os.environ.get("SSL_CERT_FILE"):
        keys["ca.crt"] = Path(os.environ["SSL_CERT_FILE"]).read_bytes()
    try:
        return parse_connection(keys, "The options", ANY)
    except InvalidConnection as error:
        raise click.UsageError(str(error)) from None


async def _examined(wish: Wish, told: Callable[[str], None]) -> Report:
    if not wish.cluster:
        return await _of_dbt_cloud(Report(), wish, wish.own, None, told)
    try:
        async with connected(wish.place) as (api, namespace):
            asker = cluster_facts.Asker(api)
            facts = await cluster_facts.gather(asker, namespace, wish.connection, wish.job_id, told=told)
            report = Report(cluster=tuple(cluster_checks.findings(facts)), requests=asker.requests)
            if wish.from_pod:
                return await _of_pod(report, wish, api, facts, told)
    except KubeError as error:
        match error:
            case Misconfigured():
                way = "Name a kubeconfig with --kubeconfig or KUBECONFIG, and a context with --context."
            case Unauthorized() | Forbidden():
                way = "Sign in again, or renew the credentials of the kubeconfig."
            case _:
                way = "Check the address in the kubeconfig, the network, and whether the cluster is up."
        unusable = bad("access", str(error).rstrip(".") + ".", way)
        # dbt Cloud is asked all the same: who gives a token of their own learns that half.
        return await _of_dbt_cloud(Report(cluster=(unusable,)), wish, wish.own, None, told)
    selected = mirror_checks.selected_jobs(facts)
    return await _of_dbt_cloud(
        report, wish, wish.own or cluster_checks.connection_of(facts), api.offset, told, selected
    )


async def _of_pod(
    report: Report, wish: Wish, api: Api, facts: cluster_facts.ClusterFacts, told: Callable[[str], None]
) -> Report:
    if any(one.check == "connection" and one.verdict is Verdict.BAD for one in report.cluster):
        why = unknown("account", "dbt Cloud was not asked: the connection cannot be used.", "See the connection above.")
        return replace(report, dbt=(why,))
    told("dbt Cloud, from the watcher's pod")
    found = await pod.asked(api, facts, wish.job_id, start=wish.start)
    known = {finding.check for finding in found.findings}
    # What only this machine could not see is of no interest: the pod has seen it.
    cluster = (one for one in report.cluster if one.verdict is not Verdict.UNKNOWN or one.check not in known)
    requests = report.requests + found.requests
    return Report(cluster=tuple(cluster), dbt=found.findings, record=found.record, requests=requests)


async def _of_dbt_cloud(
    report: Report,
    wish: Wish,
    connection: Connection | None,
    offset: float | None,
    told: Callable[[str], None],
    selected: Sequence[int] = (),
) -> Report:
    if connection is None:
        way = f"Check it from the watcher's pod with --from-pod, or give a token with {TOKEN}, --host and --account-id."
        return replace(report, dbt=(unknown("account", "dbt Cloud was not asked: no token can be read here.", way),))
    async with DbtCloud(connection) as cloud:
        seen = await dbt_facts.gather(
            cloud, wish.job_id, datetime.now(UTC), start=wish.start, selected=selected, told=told
        )
    found = tuple(dbt_checks.findings(seen, offset))
    requests = report.requests + seen.requests
    return replace(report, dbt=found, record=record.scenario(seen, found), requests=requests)


def _lines(title: str, findings: Iterable[Finding]) -> Iterator[Text]:
    """A title and a line for each finding, with the way out below it."""
    yield Text(title, style="bold")
    for finding in findings:
        mark, style = MARKS[finding.verdict]
        yield Text.assemble((f"  {mark} ", style), finding.message)
        if finding.remedy:
            yield Text(f"    → {finding.remedy}")
