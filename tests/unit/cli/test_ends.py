"""The exit code tells how the runs ended."""

from __future__ import annotations

import pytest

from dbtrun.api import FINAL_PHASES
from dbtrun.cli.ends import ENDS, MEANINGS, Exit, exit_code


def test_every_end_has_a_code_of_its_own() -> None:
    assert ENDS.keys() == FINAL_PHASES
    assert len(set(ENDS.values())) == len(FINAL_PHASES)


def test_every_code_is_explained() -> None:
    assert MEANINGS.keys() == set(Exit)


@pytest.mark.parametrize(
    ("phases", "code"),
    [(["Succeeded"], 0), (["Succeeded", "Succeeded"], 0), (["Failed"], 10), (["Succeeded", "Cancelled"], 11),
     (["TimedOut", "Failed"], 12), (["Error"], 13), ([None], 14), (["OfALaterRelease"], 13), ([], 0)],
)  # fmt: skip
def test_the_first_that_did_not_succeed_decides(phases: list[str | None], code: int) -> None:
    assert exit_code(phases) == code
