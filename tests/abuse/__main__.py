"""`python -m tests.abuse --count 10000 --seed 1`: a campaign. Its last line is JSON, its exit code the verdict."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import tempfile
from pathlib import Path

import click

from tests.abuse.campaign import campaign
from tests.abuse.figures import Figures
from tests.controlplane import ControlPlane


@click.command()
@click.option("--count", type=click.IntRange(1), default=10_000, show_default=True, help="Objects to mistreat.")
@click.option("--seed", type=int, default=1, show_default=True, help="Decides what each object goes through.")
@click.option("--seconds", type=float, default=4 * 3600, show_default=True, help="No object is made after this.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep the logs there.")
def main(count: int, seed: int, seconds: float, keep: Path | None) -> None:
    """Mistreat DbtRuns in every way that the API server allows, and in many that it does not."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    figures = asyncio.run(_run(count, seed, seconds, keep))
    for promise, name, what in figures.broken:
        click.echo(f"{promise}: {name[-20:]}: {what[:1_000]}", err=True)
    click.echo(json.dumps(figures.told()))
    sys.exit(1 if figures.broken else 0)


async def _run(count: int, seed: int, seconds: float, keep: Path | None) -> Figures:
    with tempfile.TemporaryDirectory(prefix="abuse-") as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        async with ControlPlane.start() as plane:
            return await campaign(plane, folder, count=count, seed=seed, seconds=seconds)


if __name__ == "__main__":
    main()
