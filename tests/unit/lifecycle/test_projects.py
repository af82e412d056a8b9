"""A namespace that may use certain projects of a connection starts, resumes and adopts nothing in others."""

from __future__ import annotations

from typing import Any

import pytest

from dbtrun.api import Attempt, DbtRun, Job, Phase, Reason, Reuse, Status
from tests.unit.lifecycle.builders import JOB, RUN, decided, facts, known, next_step, run, seen
from watcher.lifecycle.decisions import Cancel, ClaimStart, FindLive, FindProjects, ResolveJob, SearchPast, Write
from watcher.lifecycle.known import Known, Touched

OURS, THEIRS = 101, 102
RESUMED = 77


def limited(*projects: int | None, resumed: int | None = None, **more: Any) -> Known:
    """What is known once the projects that a start is about were asked for."""
    touched = Touched(job_id=JOB, resumed=resumed, projects=projects) if projects else None
    return known(projects=frozenset({OURS}), touched=touched, **more)


def refusal(obj: DbtRun, memory: Known) -> str:
    status = decided(Write, obj, memory).status
    assert (status.phase, status.reason) == (Phase.ERROR, Reason.PROJECT_NOT_ALLOWED)
    return status.message


def test_the_project_of_the_job_is_asked_for_before_anything_else_of_the_job() -> None:
    asked = FindProjects(JOB, None)
    assert next_step(run(), limited()) == asked
    assert next_step(run(reuse=Reuse.RUNNING), limited()) == asked
    assert next_step(run(), limited(since=None)) == asked, "and before its runs are searched"


def test_a_start_in_an_allowed_project_goes_on() -> None:
    decided(ClaimStart, run(), limited(OURS))
    decided(SearchPast, run(), limited(OURS, since=None))
    assert next_step(run(reuse=Reuse.RUNNING), limited(OURS)) == FindLive(JOB)


def test_without_a_limit_nothing_is_asked() -> None:
    decided(ClaimStart, run(), known())


@pytest.mark.parametrize("memory", [limited(THEIRS), limited(THEIRS, since=None)])
def test_a_start_in_another_project_is_refused_in_one_sentence(memory: Known) -> None:
    assert refusal(run(), memory) == (
        "The namespace data may not use project 102 with the default connection: name a Secret in spec.connectionRef, "
        "or have the project added to the Helm value connection.projects."
    )


def test_a_project_that_dbt_cloud_does_not_name_is_refused() -> None:
    assert "a project that dbt Cloud does not name" in refusal(run(), limited(None))


def test_a_job_that_is_given_by_names_is_limited_too() -> None:
    named = run(job=Job(name="nightly", project="p", environment="e"))
    decided(ResolveJob, named, limited())
    assert next_step(named, limited(job_id=JOB)) == FindProjects(JOB, None)
    refusal(named, limited(THEIRS, job_id=JOB))


def test_a_run_of_another_project_is_not_resumed_by_way_of_an_allowed_job() -> None:
    obj = run(retry_of=RESUMED)
    assert next_step(obj, limited()) == FindProjects(JOB, RESUMED)
    assert next_step(obj, limited(OURS)) == FindProjects(JOB, RESUMED), "what is known of the job alone says too little"
    refusal(obj, limited(OURS, THEIRS, resumed=RESUMED))
    decided(ClaimStart, obj, limited(OURS, OURS, resumed=RESUMED))


def test_a_retry_is_asked_about_by_the_run_that_it_resumes() -> None:
    first = Attempt(number=1, phase=Phase.FAILED, run_id=RUN, marker="")
    again = Attempt(number=2, phase=Phase.PENDING, retry_of=RUN)
    obj = run(Status(phase=Phase.PENDING, reason=Reason.RETRY_BACKOFF, job_id=JOB, attempts=(first, again)))
    memory = limited(OURS)
    assert next_step(obj, memory) == FindProjects(JOB, RUN)


def test_a_run_of_another_project_is_neither_adopted_nor_cancelled() -> None:
    for cancel in (False, True):
        obj = run(run_id=RUN, cancel=cancel)
        memory = limited(observation=seen(facts(project_id=THEIRS)), about=RUN)
        assert "project 102" in refusal(obj, memory)
        unwritable = limited(observation=seen(facts(project_id=THEIRS)), about=RUN, unwritten=True)
        assert not isinstance(next_step(obj, unwritable), Cancel)


def test_a_run_of_an_allowed_project_is_adopted() -> None:
    memory = limited(observation=seen(facts(project_id=OURS)), about=RUN)
    assert decided(Write, run(run_id=RUN), memory).status.phase is Phase.RUNNING
