"""The watcher dies at every side effect of every path, and what begins after it brings each to the one right end.

Nothing here is a list that could go stale: a first, undisturbed run of a path shows its side effects, and the code
itself shows which there are. Time is virtual, so the real periods apply and cost nothing.

`make crash-points` tries each mishap at all side effects of each path. `make test` lets the watcher die at every second
one: at the even ones of one path, and at the odd ones of the next. Any other mishap happens at one side effect of a
path, not the same one for all mishaps. Each mishap happens at each kind of side effect on some path.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import os
from collections.abc import Collection, Mapping
from typing import Final

import pytest

from tests.chaos.fate import COPIES, DEATHS, REPLACEMENTS, RESTORES, UNDOINGS, Blow, Mishap, all_effects
from tests.chaos.paths import PATHS, PLAIN
from tests.chaos.stories import Story, tell
from tests.chaos.world import in_virtual_time

EVERY: Final = "EVERY" in os.environ
"""Whether each mishap happens at every side effect."""


@functools.cache
def undisturbed(name: str) -> Story:
    """The path when nothing happens."""
    story = Story()
    in_virtual_time(lambda: tell(PATHS[name], (), story))
    return story


@functools.cache
def after(name: str, *blows: Blow) -> Story:
    """The path under these blows."""
    story = Story()
    in_virtual_time(lambda: tell(PATHS[name], blows, story))
    first = undisturbed(name).effects[blows[0].step]
    told = ", then ".join([f"{blows[0]} ({first})", *map(str, blows[1:])])
    story.broken = [f"{told}: {wrong}" for wrong in story.broken]
    return story


@pytest.mark.parametrize("name", PATHS)
def test_undisturbed_a_path_ends_as_it_must(name: str) -> None:
    assert undisturbed(name).broken == []


def test_every_side_effect_of_the_code_is_on_a_path() -> None:
    met = {effect for name in PATHS for effect in undisturbed(name).effects}
    assert met == asyncio.run(all_effects())


@functools.cache
def sampled(names: tuple[str, ...], mishap: Mishap) -> Mapping[str, Collection[int]]:
    """Of each path, the side effects at which the mishap happens: some, and those of a kind that no path before had.

    The one that is chosen for a mishap other than a death is none of the first two, before which no watcher has taken
    the object on, and none of the last two, after which the object may be gone.
    """
    met: set[str] = set()
    chosen: dict[str, list[int]] = {}
    for number, name in enumerate(names, start=list(Mishap).index(mishap)):
        effects = undisturbed(name).effects
        around = max(1, len(effects) - 5)
        one = len(effects) // 2 - around // 2 + number % around
        often = {*range(number % 2, len(effects), 2)} if mishap in DEATHS else {one}
        chosen[name] = [step for step, effect in enumerate(effects) if EVERY or step in often or effect not in met]
        met.update(effects)
    return chosen


def wrongs(name: str, mishap: Mishap, steps: Collection[int]) -> list[str]:
    return [wrong for step in steps for wrong in after(name, Blow(step, mishap)).broken]


@pytest.mark.parametrize("name", PATHS)
def test_a_path_ends_as_it_must_wherever_the_watcher_dies(name: str) -> None:
    """To die before a side effect is to die after the one before it."""
    steps = sampled(tuple(PATHS), Mishap.DIES_AFTER)[name]
    assert wrongs(name, Mishap.DIES_BEFORE, steps if EVERY else [0]) == []
    assert wrongs(name, Mishap.DIES_AFTER, steps) == []


MARKED: Final = tuple(name for name in PATHS if name != "reuse")
"""Where a run can be told by its marker, or by the run that it resumes."""


@pytest.mark.parametrize("name", MARKED)
@pytest.mark.parametrize("mishap", UNDOINGS)
def test_a_path_ends_as_it_must_wherever_a_running_watcher_finds_the_status_gone_back(
    name: str, mishap: Mishap
) -> None:
    assert wrongs(name, mishap, sampled(MARKED, mishap)[name]) == []


PUNCTUAL: Final = tuple(name for name in MARKED if not PATHS[name].late)


@pytest.mark.parametrize("name", PUNCTUAL)
@pytest.mark.parametrize("mishap", RESTORES)
def test_a_path_ends_as_it_must_wherever_a_cluster_is_restored(name: str, mishap: Mishap) -> None:
    assert wrongs(name, mishap, sampled(PUNCTUAL, mishap)[name]) == []


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("mishap", COPIES)
def test_a_path_ends_as_it_must_and_a_copy_starts_nothing_wherever_one_appears(name: str, mishap: Mishap) -> None:
    steps = sampled(tuple(PATHS), mishap)[name]
    assert wrongs(name, mishap, steps) == []
    assert copies(name, mishap, steps)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("mishap", REPLACEMENTS)
def test_a_copy_in_the_place_of_its_object_starts_nothing_and_ends_or_says_what_to_do(
    name: str, mishap: Mishap
) -> None:
    steps = sampled(tuple(PATHS), mishap)[name]
    assert wrongs(name, mishap, steps) == []
    assert copies(name, mishap, steps)


def copies(name: str, mishap: Mishap, steps: Collection[int]) -> int:
    """At how many side effects a copy was made: an object that no watcher has taken on is not told from a new one."""
    return sum(after(name, Blow(step, mishap)).copies for step in steps)


ELSEWHERE: Final = tuple(name for name in PATHS if name != "start, artifacts kept")
"""An end does not wait for files that cannot be read now."""


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_path_ends_as_it_must_wherever_its_connection_names_another_account(name: str) -> None:
    assert wrongs(name, Mishap.REDIRECTED, sampled(ELSEWHERE, Mishap.REDIRECTED)[name]) == []


OTHERS = [
    mishap
    for mishap in Mishap
    if mishap not in {*DEATHS, *UNDOINGS, *RESTORES, *COPIES, *REPLACEMENTS, Mishap.REDIRECTED}
]


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("mishap", OTHERS)
def test_a_path_ends_as_it_must_whatever_else_happens_at_a_side_effect(name: str, mishap: Mishap) -> None:
    assert wrongs(name, mishap, sampled(tuple(PLAIN), mishap)[name]) == []


@pytest.mark.parametrize("name", ["start, answer lost", "retry from failure"])
def test_dying_twice_is_no_worse(name: str) -> None:
    """First at the first side effect, or at any; the second time at each that is left to do."""
    wrong = []
    for first in range(len(undisturbed(name).effects) if EVERY else 1):
        for second in itertools.count():
            story = after(name, Blow(first, Mishap.DIES_AFTER), Blow(second, Mishap.DIES_AFTER))
            wrong += story.broken
            if story.struck < 2:
                break
    assert wrong == []
