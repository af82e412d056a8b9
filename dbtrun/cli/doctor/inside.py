"""`dbtrun check`: what `doctor` finds out about dbt Cloud, from the pod of a watcher.

There it has the watcher's network, proxy, certificates and rights, so nobody else needs the token. It shares the memory
of the watcher's container: this module is light, and bounds what the rest may take before it imports it.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

import click
import msgspec

from dbtrun.cli.doctor import memory
from dbtrun.cli.doctor.finding import Finding, Told, bad

SLOWER: Final = 10
"""Of nice(2): the watcher comes first."""


@click.command()
@click.option("-n", "--namespace", metavar="NAME", help="Namespace of the Secret that --connection names.")
@click.option("--connection", metavar="SECRET", help="Use this Secret instead of the watcher's default connection.")
@click.option("--job", "job_id", type=click.IntRange(min=1), metavar="ID", help="Also check this job.")
@click.option(
    "--mirrored",
    type=click.IntRange(min=1),
    multiple=True,
    metavar="ID",
    help="A job that a mirror selects. Can be repeated.",
)
@click.option(
    "--start",
    type=click.IntRange(min=1),
    metavar="ID",
    help="Start a run of this job, find it, and cancel it immediately. Without this, nothing is changed.",
)
def check(
    namespace: str | None, connection: str | None, job_id: int | None, mirrored: tuple[int, ...], start: int | None
) -> None:
    """Check dbt Cloud from a watcher's pod.

    Uses the settings, the network and the ServiceAccount of the watcher, and prints what it finds as one JSON document,
    without the token. `dbtrun doctor --from-pod` runs it and shows the result.
    """
    if (namespace is None) != (connection is None):
        raise click.UsageError("--connection and --namespace go together.")
    where = (namespace, connection) if namespace is not None and connection is not None else None
    os.nice(SLOWER)
    try:
        memory.keep_within(memory.ALLOWED)
        try:
            from dbtrun.cli.doctor.examination import examined
        except ModuleNotFoundError:
            raise
        except (SystemError, ImportError) as error:
            # Python says so when it, or a library that it maps, gets no memory in the middle of an import.
            raise MemoryError from error

        told = asyncio.run(examined(where, start or job_id, mirrored, start=start is not None))
    except memory.TooLittle as error:
        told = Told((_memory(str(error)),))
    except MemoryError:
        told = Told((_memory(f"The check needs more than the {memory.ALLOWED // memory.MIB} MiB that it may use."),))
    click.echo(msgspec.json.encode(told))


def _memory(message: str) -> Finding:
    return bad("memory", message, "Raise the memory limit of the watcher (resources.limits.memory).")
