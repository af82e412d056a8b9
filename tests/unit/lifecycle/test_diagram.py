"""The state diagram of the documentation: it is what the core does, and the core does nothing else."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from dbtrun.api import Phase
from docs import generate, lifecycle
from tests.unit.lifecycle.test_model import ADOPTING, ALL, ANY, QUICK, Story, stories, told, worlds
from tests.unit.lifecycle.world import World


def test_the_page_is_what_the_stories_show() -> None:
    assert generate.LIFECYCLE.read_text() == generate.lifecycle_page(), "run `make docs`"


def documented() -> set[tuple[str, str]]:
    return set(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", generate.LIFECYCLE.read_text(), re.MULTILINE))


def test_the_page_has_every_phase_and_no_way_out_of_a_final_one() -> None:
    pairs = documented()
    assert {phase for pair in pairs for phase in pair} == {phase.value for phase in Phase}
    assert {Phase(before) for before, _ in pairs} == {phase for phase in Phase if not phase.final}


WRITTEN_AT_ONCE = {("Pending", end) for end in ("Succeeded", "Failed", "TimedOut")}
"""The end of a run that was over when a mirror found it."""


def made(world: World, story: Story) -> set[tuple[str, str]]:
    told(world, story)
    return {(before.value, str(after.phase)) for before, after in lifecycle.changes(world.api.told)}


@QUICK
@given(worlds(st.one_of(ANY, ADOPTING)), stories(ALL))
def test_no_story_makes_a_transition_that_the_page_does_not_have(world: World, story: Story) -> None:
    assert made(world, story) - (documented() - WRITTEN_AT_ONCE) == set()


@QUICK
@given(worlds(ADOPTING.map(lifecycle.mirrored)), stories(ALL))
def test_nor_does_a_story_of_a_mirrored_object(world: World, story: Story) -> None:
    assert made(world, story) - documented() == set()
