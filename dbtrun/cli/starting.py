"""`dbtrun run`: create a DbtRun, follow it, and end with a code that depends on its outcome."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import click
import msgspec

from dbtrun.api import GROUP, KIND
from dbtrun.cli.cluster import Place, connected
from dbtrun.cli.ends import Exit
from dbtrun.cli.manifest import CANCEL, base_of, object_of
from dbtrun.cli.options import cluster_options, duration_option, output_option, running
from dbtrun.cli.runs import Runs
from dbtrun.cli.screen import interactive, write_object
from dbtrun.cli.waiting import waited
from dbtrun.text import natural

OPTIONS: Final[dict[str, str]] = {
    "schema": "schema",
    "git_branch": "gitBranch",
    "git_sha": "gitSha",
    "threads": "threads",
    "target": "target",
    "dbt_version": "dbtVersion",
    "generate_docs": "generateDocs",
}
"""Options that are fields of `spec.overrides`."""


def _override_options(command: Callable[..., Any]) -> Callable[..., Any]:
    # Decorators apply from the last to the first: so --help lists them in this order.
    for option in reversed(
        (
            click.option("--schema", help="Schema to build in."),
            click.option("--git-branch", metavar="BRANCH", help="Git branch to check out."),
            click.option("--git-sha", metavar="SHA", help="Git commit to check out."),
            click.option("--threads", type=click.IntRange(min=1), help="Number of dbt threads."),
            click.option("--target", help="Name of the dbt target."),
            click.option("--dbt-version", metavar="VERSION", help="dbt version, as dbt Cloud names it."),
            click.option("--generate-docs/--no-generate-docs", default=None, help="Whether to generate documentation."),
        )
    ):
        command = option(command)
    return command


@click.command()
@click.argument("job")
@click.option("--project", help="Project of JOB, if JOB is a name.")
@click.option("--environment", help="Environment of JOB, if JOB is a name.")
@click.option("--connection", metavar="SECRET", help="Secret of the connection, instead of the watcher's default.")
@click.option(
    "--step",
    "steps",
    multiple=True,
    metavar="COMMAND",
    help="A dbt command to run instead of the job's own. Can be repeated.",
)
@_override_options
@click.option("--cause", help="What dbt Cloud shows as the cause of the run.")
@click.option("--retries", type=click.IntRange(0, 20), default=0, help="Further attempts if the run fails.")
@click.option("--reuse", is_flag=True, help="Attach to a run of the job that is live, if there is one.")
@click.option(
    "--artifact", "artifacts", multiple=True, metavar="PATH", help="A file of target/ to keep. Can be repeated."
)
@duration_option("--deadline", "Cancel the run if it takes longer than this.")
@duration_option("--queue-deadline", "Cancel the run if it has not begun after this time.")
@duration_option("--ttl", "Delete the DbtRun this long after its end.")
@click.option("--name", help="Name of the DbtRun, instead of one made from JOB.")
@click.option("--detach", is_flag=True, help="Do not follow the run.")
@duration_option("--timeout", "Stop following after this time. The run continues.")
@click.option(
    "--on-interrupt",
    type=click.Choice(["ask", "cancel", "leave"]),
    default="ask",
    show_default=True,
    help="What Ctrl-C (and SIGTERM) does to the run. Without a terminal, ask means leave.",
)
@click.option("--dry-run", is_flag=True, help="Print the DbtRun instead of creating it.")
@output_option()
@cluster_options
@click.pass_context
def run(
    ctx: click.Context,
    /,
    place: Place,
    name: str | None,
    detach: bool,
    timeout: float | None,
    on_interrupt: str,
    dry_run: bool,
    output: str | None,
    **options: Any,
) -> None:
    """Run a dbt Cloud job, given by its id, or by its name with --project and --environment.

    The command follows the run to its end. The exit code depends on the result.
    """
    body = object_of(spec_of(options), name=name, base=base_of(options["job"]))
    if dry_run:
        write_object(body, "json" if output == "json" else "yaml")
        return

    async def create() -> msgspec.Raw:
        async with connected(place) as (api, namespace):
            return await Runs(api, namespace).create(body)

    new = created(running(create()), output)
    if not detach:
        ctx.exit(_followed(place, new, timeout, on_interrupt))


def spec_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The spec that the options ask for.

    Raises:
        click.UsageError: they do not name a job.
    """
    job, project, environment = (options[key] for key in ("job", "project", "environment"))
    if project and environment:
        wanted = {"name": job, "project": project, "environment": environment}
    elif project or environment or (job_id := natural(job)) is None:
        raise click.UsageError("JOB must be the id of a job, or its name together with --project and --environment.")
    else:
        wanted = {"id": job_id}
    overrides = {field: options[option] for option, field in OPTIONS.items() if options[option] is not None}
    if options["steps"]:
        overrides["steps"] = list(options["steps"])
    spec = {
        "job": wanted,
        "connectionRef": {"name": options["connection"]} if options["connection"] else None,
        "cause": options["cause"],
        "overrides": overrides or None,
        "retry": {"limit": options["retries"]} if options["retries"] else None,
        "reuse": "Running" if options["reuse"] else None,
        "artifacts": list(options["artifacts"]) or None,
        "activeDeadlineSeconds": _whole(options["deadline"]),
        "queueDeadlineSeconds": _whole(options["queue_deadline"]),
        "ttlSecondsAfterFinished": _whole(options["ttl"]),
    }
    return {key: value for key, value in spec.items() if value is not None}


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds)


def created(answer: msgspec.Raw, output: str | None) -> str:
    """Tells what was created, and returns its name."""
    body = json.loads(bytes(answer))
    name = str(body["metadata"]["name"])
    if output in ("json", "yaml"):
        write_object(body, output)
    else:
        click.echo(f"{KIND.lower()}.{GROUP}/{name}" + ("" if output == "name" else " created"))
    return name


def _interrupt(_number: int, _frame: object) -> None:
    """A CI system stops its jobs by SIGTERM, and the run is to be treated as after Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a script's shell does for what runs in the background
        raise KeyboardInterrupt
    os.kill(os.getpid(), signal.SIGINT)


def _followed(place: Place, name: str, timeout: float | None, on_interrupt: str) -> int:
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return running(waited(place, [name], timeout))
    except click.exceptions.Exit as end:
        if end.exit_code != Exit.INTERRUPTED:
            raise
    wanted = on_interrupt == "cancel"
    if on_interrupt == "ask" and interactive():
        with suppress(click.Abort):  # a second Ctrl-C means no
            wanted = click.confirm(f"\nCancel the dbt Cloud run of {name}?", default=False, err=True)
    if not wanted:
        click.echo(f"The run continues. To cancel it: dbtrun cancel {name}", err=True)
        return Exit.INTERRUPTED

    async def cancel() -> Exit:
        async with connected(place) as (api, namespace):
            await Runs(api, namespace).patch(name, CANCEL)
        return await waited(place, [name], timeout)

    return running(cancel())
