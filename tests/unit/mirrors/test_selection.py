"""Which runs a mirror is about, and whose they are."""

from __future__ import annotations

import pytest

from dbtrun.api.mirrors import Cause, Select
from tests.unit.mirrors.runs import finished
from watcher.lifecycle.facts import RunFacts
from watcher.mirrors.selection import WORDS, Origin, Own, cause_of, selects

RUN = finished(1)
"""Of job 10, project 3, environment 4, started from the user interface."""


@pytest.mark.parametrize(
    ("select", "chosen"),
    [
        (Select(all_jobs=True), True),
        (Select(job_ids=(10,)), True),
        (Select(job_ids=(11, 12)), False),
        (Select(job_ids=(11, 10)), True),
        (Select(environment_ids=(4,)), True),
        (Select(environment_ids=(5,)), False),
        (Select(project_ids=(3,)), True),
        (Select(project_ids=(2,)), False),
        (Select(causes=(Cause.UI,)), True),
        (Select(causes=(Cause.SCHEDULED, Cause.CI)), False),
        (Select(job_ids=(10,), project_ids=(2,)), False),
        (Select(job_ids=(10,), environment_ids=(4,), project_ids=(3,), causes=(Cause.UI,)), True),
        (Select(job_ids=(10,), environment_ids=(4,), project_ids=(3,), causes=(Cause.API,)), False),
    ],
)
def test_each_field_that_is_given_must_match(select: Select, chosen: bool) -> None:
    assert selects(select, RUN) is chosen


@pytest.mark.parametrize(("projects", "seen"), [(None, True), (frozenset({3}), True), (frozenset({2}), False)])
def test_a_namespace_sees_only_its_projects(projects: frozenset[int] | None, seen: bool) -> None:
    assert selects(Select(all_jobs=True), RUN, projects) is seen


def test_a_run_of_no_known_project_is_seen_by_no_namespace_with_a_limit() -> None:
    assert not selects(Select(all_jobs=True), finished(1, project_id=None), frozenset({3}))


@pytest.mark.parametrize(
    ("word", "cause"),
    [*WORDS.items(), ("SCHEDULED", Cause.SCHEDULED), (None, Cause.OTHER), ("adaptive", Cause.OTHER)],
)
def test_each_of_dbt_clouds_words_is_a_cause(word: str | None, cause: Cause) -> None:
    assert cause_of(finished(1, cause_category=word)) is cause


def test_each_cause_has_a_word_of_dbt_cloud() -> None:
    assert {*WORDS.values(), Cause.OTHER} == set(Cause)


# ---- whose they are


def own(*uids: str, limit: int = 100) -> Own:
    return Own(lambda uid: uid in uids, limit)


@pytest.mark.parametrize(
    ("cause", "origin"),
    [
        ("Kicked off from UI", Origin.ELSEWHERE),
        (None, Origin.ELSEWHERE),
        ("dbtrun:here/1 nightly", Origin.OURS),
        ("dbtrun:gone/1 nightly", Origin.OTHER_CLUSTER),
        ("said dbtrun:here/1", Origin.ELSEWHERE),
    ],
)
def test_the_marker_says_whose_it_is(cause: str | None, origin: Origin) -> None:
    assert own("here").origin(finished(1, cause=cause), "data") is origin


def origins(ours: Own, *runs: RunFacts, namespace: str = "data") -> list[Origin]:
    return [ours.origin(run, namespace) for run in runs]


def test_a_run_of_an_attempt_is_ours_whatever_it_says() -> None:
    ours = own()
    ours.started(1, 7)
    assert origins(ours, finished(7), finished(8)) == [Origin.OURS, Origin.ELSEWHERE]


def test_a_run_of_the_same_number_in_another_account_is_another_run() -> None:
    ours = own()
    ours.started(1, 7)
    ours.resumed(1, 8)
    runs = [finished(7, account_id=2), finished(9, account_id=2, retrying_run_id=8)]
    assert origins(ours, *runs) == [Origin.ELSEWHERE, Origin.ELSEWHERE]


def test_who_follows_a_run_hides_it_from_no_other_namespace() -> None:
    ours = own()
    ours.followed("data", 1, 7)
    assert origins(ours, finished(7)) == [Origin.OURS]
    assert origins(ours, finished(7), namespace="another") == [Origin.ELSEWHERE]
    assert origins(ours, finished(7, account_id=2)) == [Origin.ELSEWHERE]
    assert origins(ours, finished(8, retrying_run_id=7)) == [Origin.ELSEWHERE], "anybody can resume it"


def test_what_resumes_our_run_is_ours_along_the_chain() -> None:
    ours = own()
    ours.started(1, 7)
    chain = [finished(8, retrying_run_id=7), finished(9, retrying_run_id=8), finished(11, retrying_run_id=10)]
    assert origins(ours, *chain) == [Origin.OURS, Origin.OURS, Origin.ELSEWHERE]


def test_what_a_dbt_run_resumes_is_not_ours_and_what_comes_of_it_is() -> None:
    ours = own()
    ours.resumed(1, 7)
    assert origins(ours, finished(7), finished(8, retrying_run_id=7)) == [Origin.ELSEWHERE, Origin.OURS]


def test_only_the_newest_are_remembered() -> None:
    ours = own(limit=3)
    for run_id in (1, 2, 3, 1, 4):
        ours.started(1, run_id)
    assert len(ours) == 3
    assert origins(ours, finished(1), finished(2)) == [Origin.OURS, Origin.ELSEWHERE]
