"""Each part of the claim's protocol is taken away in turn, and a run is started twice: the tests would tell."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chaos.fate import Blow, Mishap
from tests.chaos.paths import PATHS
from tests.chaos.stories import Story, tell
from tests.chaos.world import in_virtual_time
from watcher.dbtcloud.client import Client
from watcher.lifecycle import pending
from watcher.lifecycle.facts import RunFacts
from watcher.lifecycle.policy import Policy

HASTY = Policy(quiet_period=0.0)
TWICE = ["dbtrun:uid-a/1 was started 2 times"]


def wrongs(name: str, *blows: Blow, **changed: Any) -> list[str]:
    story = Story()
    in_virtual_time(lambda: tell(PATHS[name], blows, story, **changed))
    return story.broken


async def find_nothing(*_arguments: object) -> tuple[RunFacts, ...]:
    return ()


@pytest.mark.parametrize("name", ["start", "retry from failure", "cancel", "delete"])
def test_two_watchers_that_do_not_know_of_each_other_start_a_run_once(name: str) -> None:
    assert wrongs(name, rival=True) == []


def test_without_the_claims_precondition_two_watchers_start_a_run_twice() -> None:
    assert TWICE[0] in wrongs("start", rival=True, careful=False)


def test_without_the_look_up_a_lost_answer_starts_a_run_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Client, "find_marked", find_nothing)
    assert TWICE[0] in wrongs("start, answer lost")


def test_without_the_quiet_period_a_lagging_list_starts_a_run_twice() -> None:
    assert TWICE[0] in wrongs("start, answer lost, list lags", policy=HASTY)


def test_without_the_quiet_period_a_late_commit_starts_a_run_twice() -> None:
    assert TWICE[0] in wrongs("start, commit late", policy=HASTY)


def test_without_the_search_before_the_first_claim_a_restore_starts_a_run_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorded = Blow(3, Mishap.EMPTIED)
    assert wrongs("start", recorded) == []
    monkeypatch.setattr(pending, "past_is_clear", lambda _case: True)
    assert TWICE[0] in wrongs("start", recorded)
