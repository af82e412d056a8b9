"""Events of mirrors: each trouble and its end once, nothing per run, and nothing again and again."""

from __future__ import annotations

from dbtrun.api.mirrors import MirrorCondition, MirrorConditionStatus
from dbtrun.api.status import ConditionStatus
from tests.unit.mirrors.runs import NOON
from watcher.mirrors.telling import AGAIN_SECONDS, PRUNED_SECONDS, Teller

READY, REACHABLE, CAUGHT_UP = MirrorCondition.READY, MirrorCondition.REACHABLE, MirrorCondition.CAUGHT_UP


def says(kind: MirrorCondition, status: bool | None, reason: str) -> MirrorConditionStatus:
    told = {True: ConditionStatus.TRUE, False: ConditionStatus.FALSE, None: ConditionStatus.UNKNOWN}[status]
    return MirrorConditionStatus(
        type=kind, status=told, reason=reason, message=f"It is {reason}.", last_transition_time=NOON,
        observed_generation=1,
    )  # fmt: skip


BEHIND, CAUGHT = says(CAUGHT_UP, False, "Behind"), says(CAUGHT_UP, True, "CaughtUp")
AWAY, ANSWERING = says(REACHABLE, False, "Unreachable"), says(REACHABLE, True, "Answering")


def told(teller: Teller, condition: MirrorConditionStatus, now: float = 0.0) -> list[tuple[str, str]]:
    return [(event.type, event.reason) for event in teller.told([condition], now)]


def test_a_trouble_and_its_end_are_told_once() -> None:
    teller = Teller(())
    assert told(teller, ANSWERING) == []
    assert told(teller, AWAY) == [("Warning", "Unreachable")]
    assert told(teller, AWAY, 9_999.0) == []
    assert told(teller, ANSWERING) == [("Normal", "Answering")]
    assert told(teller, ANSWERING) == []


def test_the_message_is_that_of_the_condition() -> None:
    (event,) = Teller(()).told([AWAY], 0.0)
    assert event.message == "It is Unreachable."


def test_another_trouble_of_the_same_condition_is_told() -> None:
    teller = Teller(())
    assert told(teller, AWAY) == [("Warning", "Unreachable")]
    assert told(teller, says(REACHABLE, False, "RateLimited")) == [("Warning", "RateLimited")]


def test_a_mirror_that_falls_behind_again_and_again_says_so_every_ten_minutes() -> None:
    teller, seen = Teller(()), []
    for minute in range(60):
        for condition in (BEHIND, CAUGHT):
            seen += told(teller, condition, minute * 60.0)
    assert len(seen) == 2 * 3_600 / AGAIN_SECONDS
    assert seen[:2] == [("Warning", "Behind"), ("Normal", "CaughtUp")]


def test_a_trouble_that_came_back_quickly_and_stays_is_told_later() -> None:
    teller = Teller(())
    assert told(teller, BEHIND, 0.0)
    assert told(teller, CAUGHT, 10.0)
    assert told(teller, BEHIND, 20.0) == []
    assert told(teller, BEHIND, AGAIN_SECONDS) == [("Warning", "Behind")]


def test_the_end_of_a_trouble_is_told_although_it_was_not_known_in_between() -> None:
    teller = Teller(())
    assert told(teller, BEHIND)
    assert told(teller, says(CAUGHT_UP, None, "NotReading")) == []
    assert told(teller, CAUGHT) == [("Normal", "CaughtUp")]


def test_a_watcher_that_starts_repeats_nothing_and_tells_the_end() -> None:
    teller = Teller([AWAY, CAUGHT])
    assert told(teller, AWAY) == []
    assert told(teller, CAUGHT) == []
    assert told(teller, ANSWERING) == [("Normal", "Answering")]


def test_what_somebody_wants_is_no_trouble() -> None:
    teller = Teller(())
    assert told(teller, says(READY, False, "Suspended")) == []
    assert told(teller, says(READY, True, "Mirroring")) == []


def test_what_is_pruned_is_told_together_once_an_hour() -> None:
    teller = Teller(())
    texts = [event.message for second in range(7_200) for event in teller.pruned(1, float(second))]
    assert [text.rpartition(" ")[2] for text in texts] == ["1.", f"{int(PRUNED_SECONDS)}."]
    assert list(teller.pruned(0, 9e9)) != []
    assert list(teller.pruned(0, 9e10)) == []
