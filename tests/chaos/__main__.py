"""`python -m tests.chaos --kills 1000 --seed 7`: a campaign. Its last line is JSON, its exit code the verdict."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path

import click

from tests.chaos.arena import MUTANTS
from tests.chaos.campaign import Figures, campaign
from tests.controlplane import ControlPlane


@click.command()
@click.option("--kills", type=click.IntRange(1), default=1000, show_default=True, help="Watchers to kill.")
@click.option("--seed", type=int, default=1, show_default=True, help="Decides what happens, and in which order.")
@click.option("--seconds", type=float, default=4 * 3600, show_default=True, help="Ends the killing at the latest.")
@click.option("--keep", type=click.Path(path_type=Path), help="Keep the logs and the simulator's state there.")
@click.option("--without", type=click.Choice(sorted(MUTANTS)), help="Take this part of the protocol away.")
def main(kills: int, seed: int, seconds: float, keep: Path | None, without: str | None) -> None:
    """Kill watchers under every fault, and tell whether anything was lost or done twice."""
    figures = asyncio.run(_run(kills, seed, seconds, keep, without))
    click.echo(json.dumps(figures.told()))
    sys.exit(1 if figures.broken else 0)


async def _run(kills: int, seed: int, seconds: float, keep: Path | None, without: str | None) -> Figures:
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        bar = click.progressbar(length=kills, label="kills", show_pos=True, file=sys.stderr)
        async with ControlPlane.start() as plane:
            with bar:
                return await campaign(
                    plane, folder, kills=kills, seed=seed, seconds=seconds, without=without, progress=bar.update
                )


if __name__ == "__main__":
    main()
