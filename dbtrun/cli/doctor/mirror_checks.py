"""What stands between the DbtRunMirrors of a namespace and the runs that they are to show. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dbtrun.api import GROUP
from dbtrun.api.mirrors import MIRROR_PLURAL, MirrorCondition
from dbtrun.api.views import Condition
from dbtrun.cli.doctor.cluster_facts import SILENT, Absent, ClusterFacts, MirrorFacts, Unknown
from dbtrun.cli.doctor.finding import Finding, bad, good, unknown, warning
from dbtrun.cli.mirrors.view import Mirror, remedy
from dbtrun.cli.words import duration, one_line

QUIET: Final = 3_600.0
"""Seconds after which a mirror that has shown nothing is worth a look."""
MOST: Final = 5
"""Mirrors that are named."""


def findings(facts: ClusterFacts) -> Iterator[Finding]:
    """A line for each mirror that does not work, and one for those that do."""
    match facts.mirrors:
        case Absent():
            yield warning(
                "mirrors",
                f"The cluster has no CRD {MIRROR_PLURAL}.{GROUP}: runs that dbt Cloud starts itself cannot appear.",
                "If you want them, upgrade the chart, or: kubectl apply -f deploy/crd/dbtrun.dev_dbtrunmirrors.yaml",
            )
        case Unknown(why=why):
            yield unknown("mirrors", f"The DbtRunMirrors could not be read: {why.rstrip('.')}.")
        case mirrors if mirrors:
            if facts.mirrored_by_watcher is False:
                yield bad(
                    "mirrors",
                    "The watcher may not watch DbtRunMirrors.",
                    "Upgrade the chart: its roles have the right to them.",
                )
            wrong = [found for each in mirrors if (found := _wrong(each)) is not None]
            yield from wrong[:MOST]
            if len(wrong) > MOST:
                yield warning("mirrors", f"{len(wrong) - MOST} more mirrors have problems.", "See: dbtrun get mirrors")
            if works := len(mirrors) - len(wrong):
                told = "1 mirror works and has" if works == 1 else f"{works} mirrors work and have"
                yield good("mirrors", f"{told} caught up.")


def selected_jobs(facts: ClusterFacts) -> list[int]:
    """The jobs that mirrors select which use the connection that was asked for."""
    mirrors = facts.mirrors if isinstance(facts.mirrors, tuple) else ()
    specs = [each.mirror.spec for each in mirrors]
    # The token that doctor has in hand says nothing about jobs that other connections mirror: they may be of other
    # accounts.
    same = [spec for spec in specs if (spec.connection_ref.name if spec.connection_ref else None) == facts.wanted]
    return [job for spec in same for job in spec.select.job_ids]


def _wrong(facts: MirrorFacts) -> Finding | None:
    """What is wrong with a mirror; None: nothing."""
    mirror, name = facts.mirror, facts.mirror.name
    ready = mirror.condition(MirrorCondition.READY)
    if ready is None:
        # A mirror that was created just now is no finding: `kubectl apply` and `doctor` are often one command line.
        if facts.age <= SILENT:
            return None
        return bad("mirrors", f"No watcher has seen the mirror {name}.", "See the watcher above.")
    if mirror.spec.suspend:
        return warning(
            "mirrors", f"The mirror {name} is suspended.", "To continue where it stopped, set spec.suspend to false."
        )
    reachable = mirror.condition(MirrorCondition.REACHABLE)
    for told in (ready, reachable):
        if told is not None and told.status == "False":
            return bad("mirrors", f"The mirror {name} does not work: {_said(told)}", _way(mirror))
    caught_up = mirror.condition(MirrorCondition.CAUGHT_UP)
    if caught_up is not None and caught_up.status == "False":
        lag = duration(mirror.status.lag_seconds or 0)
        return warning("mirrors", f"The mirror {name} is {lag} behind: {_said(caught_up)}", _way(mirror))
    # A mirror whose DbtRuns the history limits have deleted has none left, and works.
    if facts.runs == 0 and mirror.status.pruned_through is None and facts.age > QUIET:
        return warning(
            "mirrors",
            f"No run that finished in {duration(facts.age)} has matched the mirror {name} ({mirror.spec.select}).",
            "Compare spec.select with the ids and causes of the runs in dbt Cloud.",
        )
    return None


def _way(mirror: Mirror) -> str:
    return remedy(mirror) or f"See: dbtrun describe mirror {mirror.name}"


def _said(told: Condition) -> str:
    return f"{one_line(told.message).rstrip('.')} ({one_line(told.reason)})."
