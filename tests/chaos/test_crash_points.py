"""The watcher dies at every side effect of every path, and what begins after it brings each to the one right end.

Nothing here is a list that could go stale: a first, undisturbed run of a path shows its side effects, and the code
itself shows which there are. Time is virtual, so the real periods apply and cost nothing.
"""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass, field

import pytest

from tests.chaos.fate import DEATHS, Blow, Fate, Mishap, all_effects
from tests.chaos.paths import PATHS, Path
from tests.chaos.world import AFTERWARDS, Watcher, World, in_virtual_time
from watcher.lifecycle.policy import Policy

MOST_DECISIONS = 400
"""Far above what any path needs, far below what a loop that never rests makes in an hour."""


@dataclass
class Story:
    """What came of a path."""

    effects: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


async def outlive(world: World, fates: list[Fate]) -> None:
    """As a Deployment does: when the watcher dies, the next one begins."""
    for fate in fates:
        await Watcher(world, fate).live()


async def tell(path: Path, blows: tuple[Blow, ...], story: Story) -> None:
    """Plays a path under these blows, each at another watcher's life, and holds the end against what is right."""
    world = World(Policy())
    fates = [Fate(blow, lambda: world.objects.label("a")) for blow in (*blows, None)]
    watching = asyncio.create_task(outlive(world, fates))
    playing = asyncio.create_task(path.play(world))
    await asyncio.wait({watching, playing}, return_when=asyncio.FIRST_COMPLETED)
    if watching.done():
        watching.result()
    await playing
    await world.until(lambda: world.at_rest or watching.done(), "everything at rest")
    await asyncio.sleep(AFTERWARDS)
    story.broken = await wrongs(world, path)
    if not blows:
        story.effects = fates[0].effects
        told = tuple(await world.journal())
        story.broken += [f"dbt Cloud did {told}"] if told != path.journal else []
    story.broken += [f"{fate.blow} did not happen" for fate in fates if fate.blow and not fate.struck]
    assert not watching.done(), watching
    watching.cancel()


async def wrongs(world: World, path: Path) -> list[str]:
    """What differs from the one right end."""
    last, gone = world.objects.last["a"], "a" not in world.objects.stored
    verdict = await world.verdict()
    live = len(world.simulator.account.live)
    said = [] if path.twins and len(verdict.duplicates) == path.twins else verdict.duplicates
    said += ([] if path.twins else verdict.lost) + verdict.untruthful + verdict.left_alive
    checks = {
        f"it ended {last.status.phase} ({last.status.reason}: {last.status.message})": last.status.phase is path.ends,
        f"it is {'gone' if gone else 'there'}": gone is path.gone,
        f"{live} runs are alive": live == path.alive,
        f"{len(last.status.attempts)} attempts": len(last.status.attempts) == path.attempts,
        f"final phases {world.ends['a']}": len(world.ends["a"]) <= 1,
    }
    return said + [wrong for wrong, right in checks.items() if not right]


@functools.cache
def undisturbed(name: str) -> Story:
    """The path when nothing happens."""
    story = Story()
    in_virtual_time(lambda: tell(PATHS[name], (), story))
    return story


def after(name: str, *blows: Blow) -> list[str]:
    """What is wrong in the end after these blows."""
    story = Story()
    in_virtual_time(lambda: tell(PATHS[name], blows, story))
    told = ", then ".join(f"{blow} ({undisturbed(name).effects[blow.step]})" for blow in blows)
    return [f"{told}: {wrong}" for wrong in story.broken]


@pytest.mark.parametrize("name", PATHS)
def test_undisturbed_a_path_ends_as_it_must(name: str) -> None:
    assert undisturbed(name).broken == []


def test_every_side_effect_of_the_code_is_on_a_path() -> None:
    met = {effect for name in PATHS for effect in undisturbed(name).effects}
    assert met == asyncio.run(all_effects())


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("mishap", Mishap)
def test_a_path_ends_as_it_must_whatever_happens_at_a_side_effect(name: str, mishap: Mishap) -> None:
    steps = range(len(undisturbed(name).effects))
    assert [wrong for step in steps for wrong in after(name, Blow(step, mishap))] == []
