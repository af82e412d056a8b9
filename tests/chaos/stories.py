"""A path played under blows, and its end held against the one that is right."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Final

from dbtrun.api import LIVE_PHASES, Phase
from tests.chaos.fate import Blow, Fate
from tests.chaos.paths import Path
from tests.chaos.world import AFTERWARDS, Watcher, World
from watcher.lifecycle.policy import Policy

MOST_DECISIONS: Final = 150
"""Above what any path needs, far below what an object makes that never comes to rest."""
STARTING: Final = frozenset({"POST jobs/*/run/", "POST runs/*/retry/"})
"""Side effects that start a run."""


@dataclass
class Story:
    """What came of a path."""

    effects: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    struck: int = 0
    """How many of the blows met something."""
    copies: int = 0
    """How many copies were made of the object."""


async def outlive(world: World, fates: list[Fate]) -> None:
    """As a Deployment does: when the watcher dies, the next one begins."""
    for fate in fates:
        await Watcher(world, fate).live()


async def together(lives: list[Coroutine[None, None, None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for life in lives:
            group.create_task(life)


async def to_the_end(world: World, path: Path, *, replaced: bool) -> None:
    # What people planned for the first object need not come true of a copy, which may start nothing.
    with contextlib.suppress(*([AssertionError] if replaced else [])):
        await path.play(world)
    await world.until(lambda: world.at_rest, "everything at rest")
    await asyncio.sleep(AFTERWARDS)


async def tell(
    path: Path,
    blows: tuple[Blow, ...],
    story: Story,
    *,
    policy: Policy | None = None,
    rival: bool = False,
    careful: bool = True,
) -> None:
    """Plays a path under these blows, each at another watcher's life, and holds the end against what is right.

    Args:
        rival: a second watcher works at the same time, and nothing tells them apart.
        careful: the API server refuses writes that were decided upon at another version.
    """
    world = World(policy or Policy())
    world.objects.careful = careful
    fates = [Fate(blow, world.befall) for blow in (*blows, None)]
    lives = [outlive(world, fates), *([outlive(world, [Fate()])] if rival else [])]
    watching = asyncio.create_task(together(lives))
    replaced = any(blow.replaces for blow in blows)
    playing = asyncio.create_task(to_the_end(world, path, replaced=replaced))
    await asyncio.wait({watching, playing}, return_when=asyncio.FIRST_COMPLETED)
    assert playing.done(), watching.result()
    playing.result()
    if replaced and world.copies:
        story.broken = await wrongs_of_a_copy(world, path, fates[0])
    else:
        story.broken = await wrongs(world, path, restored=any(blow.restores for blow in blows))
    story.copies = len(world.copies)
    story.struck = sum(fate.struck for fate in fates)
    if not blows:
        story.effects = fates[0].effects
        told = tuple(await world.journal())
        story.broken += [f"dbt Cloud did {told}"] if told != path.journal else []
    if fates[0].blow and not fates[0].struck:
        story.broken.append(f"{fates[0].blow} did not happen")
    watching.cancel()
    await asyncio.wait({watching})


async def wrongs(world: World, path: Path, *, restored: bool = False) -> list[str]:
    """What differs from the one right end. With the status, a restore takes away why a run was cancelled."""
    ends = {path.ends}
    if path.gone and path.ends is Phase.CANCELLED:  # it is let go when its end cannot be written
        ends |= {Phase.CANCELLING}
    if restored and path.ends is Phase.TIMED_OUT:
        ends |= {Phase.CANCELLED}
    attempts = {path.attempts}
    if restored and path.gone and path.alive:  # it was let go, whatever its status then said
        ends |= {Phase.CANCELLED, *LIVE_PHASES}
        attempts |= {0}
    last, gone = world.objects.last["a"], "a" not in world.objects.stored
    verdict = await world.verdict()
    decisions = sum(watcher.decisions for watcher in world.watchers)
    live = len(world.simulator.account.live)
    said = verdict.untruthful + verdict.left_alive + await started_by_copies(world)
    said += verdict.duplicates + verdict.lost if len(verdict.duplicates) > path.twins else []
    checks = {
        f"it ended {last.status.phase} ({last.status.reason}: {last.status.message})": last.status.phase in ends,
        f"of strangers was asked {world.strangers.requests.kinds}": not world.strangers.requests.kinds,
        f"it is {'gone' if gone else 'there'}": gone is path.gone,
        f"{live} runs are alive": live == path.alive,
        f"{len(last.status.attempts)} attempts": len(last.status.attempts) in attempts,
        f"{decisions:g} decisions": decisions <= MOST_DECISIONS * len(world.objects.last),
        f"final phases {world.ends}": all(len(ends) <= 1 for ends in world.ends.values()),
    }
    return said + [wrong for wrong, right in checks.items() if not right]


async def started_by_copies(world: World) -> list[str]:
    """The runs that a copy has started: none, as nobody said that it should."""
    marks = [f"dbtrun:{world.objects.last[name].uid}/" for name in world.copies]
    return [f"a copy started {run['cause']}" for run in await world.runs() if run["cause"].startswith(tuple(marks))]


async def wrongs_of_a_copy(world: World, path: Path, fate: Fate) -> list[str]:
    """What is wrong where a copy took the place of the object: it starts nothing, and has an end or says what to do."""
    verdict = await world.verdict()
    assert fate.blow is not None
    under_way = path.twins + (path.late or fate.effects[fate.blow.step] in STARTING)
    decisions = sum(watcher.decisions for watcher in world.watchers)
    checks = {
        f"of strangers was asked {world.strangers.requests.kinds}": not world.strangers.requests.kinds,
        f"{world.started} runs, {world.started_before} when the copy was made": world.started
        <= world.started_before + under_way,
        f"{decisions:g} decisions": decisions <= 2 * MOST_DECISIONS,
        f"final phases {world.ends}": all(len(ends) <= 1 for ends in world.ends.values()),
    }
    said = await started_by_copies(world) + verdict.duplicates[path.twins :] + verdict.lost + verdict.untruthful
    return said + [wrong for wrong, right in checks.items() if not right]
