"""How Argo CD shows a DbtRun: its health check runs in the Lua that Argo CD runs it in, without any library."""

from __future__ import annotations

from typing import Any

import pytest

from dbtrun.api import FINAL_PHASES, Phase
from tests.chart.argocd import health


def dbtrun(phase: Phase, generation: int = 1, **status: str) -> dict[str, Any]:
    return {"metadata": {"generation": generation}, "status": {"phase": phase.value, "observedGeneration": 1, **status}}


def test_an_object_that_nobody_saw_is_on_its_way() -> None:
    assert health({"metadata": {"generation": 1}}) == ("Progressing", "Not seen by the watcher yet")


@pytest.mark.parametrize("phase", sorted(set(Phase) - FINAL_PHASES))
def test_a_run_that_goes_on_is_progressing(phase: Phase) -> None:
    assert health(dbtrun(phase, message="It goes on.")) == ("Progressing", "It goes on.")


@pytest.mark.parametrize("phase", sorted(FINAL_PHASES - {Phase.SUCCEEDED}))
def test_a_bad_end_is_degraded(phase: Phase) -> None:
    assert health(dbtrun(phase, message="The reason."))[0] == "Degraded"


def test_a_success_is_healthy() -> None:
    assert health(dbtrun(Phase.SUCCEEDED, message="Done.")) == ("Healthy", "Done.")


def test_a_suspended_run_is_suspended() -> None:
    assert health(dbtrun(Phase.PENDING, reason="Suspended"))[0] == "Suspended"


def test_a_status_from_before_the_last_change_counts_for_nothing() -> None:
    assert health(dbtrun(Phase.SUCCEEDED, generation=2))[0] == "Progressing"
