"""Files of an ended run that the spec asks for: they are kept before the end is reported, and reported with it."""

from __future__ import annotations

from typing import Final

from dbtrun.api import Artifact, DbtRun
from dbtrun.values import shortened
from watcher.lifecycle.case import Case
from watcher.lifecycle.decisions import Decision, FindOwner, KeepArtifacts
from watcher.lifecycle.facts import RunFacts
from watcher.lifecycle.known import KeepTry

MAX_BYTES: Final = 900_000
"""Bytes of one run's files together. They share a ConfigMap, which Kubernetes limits to 1 MiB."""
MAX_NAME: Final = 253
SUFFIX: Final = "-artifacts"


def keep_step(case: Case, facts: RunFacts) -> Decision | None:
    """The files are worth a few requests and seconds, but must not delay the end for ever. None: report the end."""
    if not case.spec.artifacts or _hindrance(case, facts) is not None:
        return None
    tried = _tried(case, facts)
    if tried is None:
        return case.reconnect() or (
            FindOwner(facts.run_id)
            if case.owner_unknown(facts.run_id)
            else KeepArtifacts(facts.run_id, case.spec.artifacts)
        )
    if not tried.again or tried.tries >= case.policy.details_tries:
        return None
    due = tried.at + case.policy.artifacts_pause
    if due > case.now.mono:
        return case.rest(due, why="an artifact may still come")
    return case.reconnect() or KeepArtifacts(facts.run_id, tried.lacking)


def told_artifacts(case: Case, facts: RunFacts) -> tuple[Artifact, ...]:
    """Every file that was asked for: where it is kept, or why it is not."""
    tried = _tried(case, facts)
    if tried is not None:
        return tried.artifacts
    return tuple(Artifact(path=path, problem=_hindrance(case, facts)) for path in case.spec.artifacts)


def _tried(case: Case, facts: RunFacts) -> KeepTry | None:
    tried = case.known.kept
    return tried if tried is not None and tried.run_id == facts.run_id else None


def _hindrance(case: Case, facts: RunFacts) -> str | None:
    if facts.started_at is None:
        return "The run never began."
    if case.run.deleting:
        return "The object was being deleted."
    if case.foreign(facts.run_id):
        return "A DbtRun of another namespace has started the run."
    return "dbt Cloud could not be asked." if case.pausing else None


def config_map_name(run: DbtRun) -> str:
    """The ConfigMap that keeps an object's files; a name that is too long is cut, and a digest keeps it unique."""
    return shortened(run.metadata.name, MAX_NAME - len(SUFFIX)) + SUFFIX


def key_of(path: str) -> str:
    """The key of a file in its ConfigMap. As no path contains `..`, no two paths share one."""
    # The key of a ConfigMap takes letters, digits, `-`, `_` and `.` only (documented).
    return path.replace("/", "..")
