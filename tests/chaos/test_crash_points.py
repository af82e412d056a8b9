"""The watcher dies at every side effect of every path, and what begins after it brings each to the one right end.

Nothing here is a list that could go stale: a first, undisturbed run of a path shows its side effects, and the code
itself shows which there are. Time is virtual, so the real periods apply and cost nothing.
"""

from __future__ import annotations

import asyncio
import functools
import itertools

import pytest

from tests.chaos.fate import COPIES, DEATHS, REPLACEMENTS, RESTORES, UNDOINGS, Blow, Mishap, all_effects
from tests.chaos.paths import PATHS, PLAIN
from tests.chaos.stories import Story, tell
from tests.chaos.world import in_virtual_time


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


def everywhere(name: str, mishap: Mishap) -> list[str]:
    steps = range(len(undisturbed(name).effects))
    return [wrong for step in steps for wrong in after(name, Blow(step, mishap)).broken]


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("death", DEATHS)
def test_a_path_ends_as_it_must_wherever_the_watcher_dies(name: str, death: Mishap) -> None:
    assert everywhere(name, death) == []


MARKED = [name for name in PATHS if name != "reuse"]
"""Where a run can be told by its marker, or by the run that it resumes."""


@pytest.mark.parametrize("name", MARKED)
@pytest.mark.parametrize("mishap", UNDOINGS)
def test_a_path_ends_as_it_must_wherever_a_running_watcher_finds_the_status_gone_back(
    name: str, mishap: Mishap
) -> None:
    assert everywhere(name, mishap) == []


@pytest.mark.parametrize("name", [name for name in MARKED if not PATHS[name].late])
@pytest.mark.parametrize("mishap", RESTORES)
def test_a_path_ends_as_it_must_wherever_a_cluster_is_restored(name: str, mishap: Mishap) -> None:
    assert everywhere(name, mishap) == []


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("mishap", COPIES)
def test_a_path_ends_as_it_must_and_a_copy_starts_nothing_wherever_one_appears(name: str, mishap: Mishap) -> None:
    assert everywhere(name, mishap) == []
    assert copies(name, mishap)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("mishap", REPLACEMENTS)
def test_a_copy_in_the_place_of_its_object_starts_nothing_and_ends_or_says_what_to_do(
    name: str, mishap: Mishap
) -> None:
    assert everywhere(name, mishap) == []
    assert copies(name, mishap)


def copies(name: str, mishap: Mishap) -> int:
    """At how many side effects a copy was made: an object that no watcher has taken on is not told from a new one."""
    return sum(after(name, Blow(step, mishap)).copies for step in range(len(undisturbed(name).effects)))


ELSEWHERE = [name for name in PATHS if name != "start, artifacts kept"]
"""An end does not wait for files that cannot be read now."""


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_path_ends_as_it_must_wherever_its_connection_names_another_account(name: str) -> None:
    assert everywhere(name, Mishap.REDIRECTED) == []


OTHERS = [
    mishap
    for mishap in Mishap
    if mishap not in {*DEATHS, *UNDOINGS, *RESTORES, *COPIES, *REPLACEMENTS, Mishap.REDIRECTED}
]


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("mishap", OTHERS)
def test_a_path_ends_as_it_must_whatever_else_happens_at_a_side_effect(name: str, mishap: Mishap) -> None:
    assert everywhere(name, mishap) == []


@pytest.mark.parametrize("name", ["start, answer lost", "retry from failure"])
def test_dying_twice_is_no_worse(name: str) -> None:
    """The second time at each side effect that is left to do after the first."""
    wrong = []
    for first in range(len(undisturbed(name).effects)):
        for second in itertools.count():
            story = after(name, Blow(first, Mishap.DIES_AFTER), Blow(second, Mishap.DIES_AFTER))
            wrong += story.broken
            if story.struck < 2:
                break
    assert wrong == []
