"""Makes a watcher write down when and for how long its event loop was blocked. Its own beat comes once a second only.

Python imports a module of this name by itself when its folder is on the path.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Final, NoReturn

WORTH_TELLING: Final = 0.05
"""Seconds."""


def _measure(file: Path) -> None:
    from tests.hostile.beats import blocks
    from watcher.telemetry.vitals import Heart

    run = Heart.run

    async def beat() -> None:
        async for block in blocks():
            if block > WORTH_TELLING:
                with file.open("a") as told:
                    told.write(f"{time.time():.3f} {block:.3f}\n")

    async def measured(self: Heart) -> NoReturn:
        beating = asyncio.create_task(beat())
        try:
            await run(self)
        finally:
            beating.cancel()

    setattr(Heart, "run", measured)  # noqa: B010 - a method


if "HOSTILE_BLOCKS" in os.environ:
    _measure(Path(os.environ["HOSTILE_BLOCKS"]))
