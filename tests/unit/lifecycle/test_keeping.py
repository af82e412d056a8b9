"""Files that are kept before the end is told."""

from __future__ import annotations

from dataclasses import replace as known_with
from itertools import product
from typing import Any

import pytest
from msgspec.structs import replace

from dbtrun.api import Artifact, DbtRun, Phase, Reason, Retry
from tests.unit.lifecycle.builders import (
    RUN,
    facts,
    following,
    live,
    mono,
    next_step,
    read,
    run,
    seen,
    trouble,
    wall,
    written,
)
from watcher.lifecycle.decisions import Connect, FetchDetails, KeepArtifacts, Wait, Write
from watcher.lifecycle.facts import RunFacts, RunState
from watcher.lifecycle.keeping import MAX_NAME, config_map_name, key_of
from watcher.lifecycle.known import DetailsTry, KeepTry, Known

RESULTS = "run_results.json"
MANIFEST = "manifest.json"
PASSED = facts(RunState.SUCCESS, finished_at=wall(50))
FAILED = facts(RunState.ERROR, finished_at=wall(50), can_retry=True)
KEPT = Artifact(path=RESULTS, config_map="nightly-artifacts", key=RESULTS, bytes=7)
MISSING = Artifact(path=MANIFEST, problem="There is none.")


def wanting(**spec: Any) -> DbtRun:
    return run(live(), **{"artifacts": (RESULTS, MANIFEST), **spec})


def watching(obj: DbtRun, end: RunFacts = PASSED, **changes: Any) -> Known:
    """A watcher that has seen the end, and its details as far as they are to be had."""
    details = DetailsTry(run_id=RUN, at=mono(55), tries=2, over=True)
    return following(obj, seen(end, 55), **{"details": details, "results": read(), **changes})


def tried(*artifacts: Artifact, at: float = 56, tries: int = 1, again: bool = False) -> KeepTry:
    return KeepTry(run_id=RUN, at=mono(at), tries=tries, artifacts=artifacts, again=again)


@pytest.mark.parametrize("end", [PASSED, FAILED, facts(RunState.CANCELLED, finished_at=wall(50))])
def test_the_files_are_kept_before_an_end_is_told(end: RunFacts) -> None:
    obj = wanting()
    assert next_step(obj, watching(obj, end), 56) == KeepArtifacts(RUN, (RESULTS, MANIFEST))


def test_the_files_of_an_adopted_run_are_kept_too() -> None:
    obj = wanting(run_id=RUN)
    assert isinstance(next_step(obj, watching(obj), 56), KeepArtifacts)


def test_an_end_that_nobody_wants_files_of_is_told_at_once() -> None:
    obj = run(live())
    status = written(obj, watching(obj), 56)
    assert (status.phase, status.artifacts) == (Phase.SUCCEEDED, ())


def test_the_failed_nodes_come_first() -> None:
    obj = wanting()
    assert isinstance(next_step(obj, watching(obj, FAILED, details=None), 56), FetchDetails)


def test_where_the_files_are_is_told_with_the_end() -> None:
    obj = wanting()
    status = written(obj, watching(obj, kept=tried(KEPT, MISSING)), 57)
    assert (status.phase, status.artifacts) == (Phase.SUCCEEDED, (KEPT, MISSING))


def test_nothing_is_kept_before_a_retry() -> None:
    obj = wanting(retry=Retry(limit=1))
    status = written(obj, watching(obj, FAILED), 56)
    assert (status.phase, status.reason, status.artifacts) == (Phase.PENDING, Reason.RETRY_BACKOFF, ())


def test_what_is_lacking_is_asked_for_once_more_after_a_pause() -> None:
    obj = wanting()
    memory = watching(obj, kept=tried(KEPT, MISSING, again=True))
    first = next_step(obj, memory, 56)
    assert isinstance(first, Write)
    assert first.status.phase is Phase.RUNNING
    told = replace(obj, status=first.status)
    assert next_step(told, memory, 56) == Wait(mono(61), "an artifact may still come")
    assert next_step(told, memory, 61) == KeepArtifacts(RUN, (MANIFEST,))


def test_the_end_does_not_wait_for_a_file_that_does_not_come() -> None:
    obj = wanting()
    status = written(obj, watching(obj, kept=tried(KEPT, MISSING, tries=2, again=True)), 62)
    assert (status.phase, status.artifacts) == (Phase.SUCCEEDED, (KEPT, MISSING))


def test_a_dropped_connection_is_read_anew_for_the_files() -> None:
    obj = wanting()
    for kept in (None, tried(KEPT, MISSING, at=40, again=True)):
        assert next_step(obj, watching(obj, account_id=None, kept=kept), 56) == Connect()


@pytest.mark.parametrize(
    ("end", "changes", "why"),
    [
        (facts(RunState.CANCELLED, started_at=None), {}, "The run never began."),
        (PASSED, {"trouble": trouble(since=50, retry_at=60)}, "dbt Cloud could not be asked."),
    ],
)
def test_an_end_whose_files_cannot_be_had_is_told_and_says_why(
    end: RunFacts, changes: dict[str, Any], why: str
) -> None:
    obj = wanting()
    status = written(obj, watching(obj, end, **changes), 56)
    assert status.phase is not None
    assert status.phase.final
    assert status.artifacts == tuple(Artifact(path=path, problem=why) for path in (RESULTS, MANIFEST))


def test_what_goes_with_the_object_is_not_kept() -> None:
    obj = run(live(Phase.CANCELLING, Reason.DELETED), deleted=30, artifacts=(RESULTS,))
    status = written(obj, watching(obj, facts(RunState.CANCELLED)), 56)
    assert status.artifacts == (Artifact(path=RESULTS, problem="The object was being deleted."),)


def test_the_files_of_an_earlier_run_do_not_count() -> None:
    obj = wanting()
    earlier = known_with(tried(KEPT, MISSING), run_id=RUN - 1)
    assert next_step(obj, watching(obj, kept=earlier), 56) == KeepArtifacts(RUN, (RESULTS, MANIFEST))


# ── names ──


def named(name: str) -> DbtRun:
    obj = run()
    return replace(obj, metadata=replace(obj.metadata, name=name))


def test_the_config_map_has_the_name_of_the_object() -> None:
    assert config_map_name(named("nightly")) == "nightly-artifacts"


def test_long_names_are_cut_and_stay_apart() -> None:
    names = [config_map_name(named("n" * 242 + last)) for last in ("-a.b", ".-.c", "-" * 10 + "d")]
    assert len(set(names)) == 3
    assert all(len(name) <= MAX_NAME and name.endswith("-artifacts") for name in names)
    assert all(".-" not in name and "--" not in name for name in names)


def test_no_two_paths_share_a_key() -> None:
    names = ("a", "a.", "b", "b.a", "a-b", "a.b")
    paths = ["/".join(parts) for length in (1, 2, 3) for parts in product(names, repeat=length)]
    assert len({key_of(path) for path in paths}) == len(paths)
