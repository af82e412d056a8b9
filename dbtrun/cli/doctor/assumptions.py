"""The assumptions of docs/reliability.md: which of them hold here. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from dbtrun.cli.doctor.finding import Finding, Verdict, unknown


class Assumption(NamedTuple):
    """A row of the table `What is assumed`, and the checks that show whether it holds."""

    words: str
    """How the row begins."""
    checks: tuple[str, ...]
    why_not: str = ""
    """Why nothing can be checked from outside."""


ASSUMPTIONS: Final = (
    Assumption("A run appears in dbt Cloud's lists before the quiet period is over", ("list lag",)),
    Assumption(
        "A watcher does not pause for a quiet period",
        (),
        "It depends on the watcher's machine: alert on dbtrun_loop_lag_seconds.",
    ),
    Assumption(
        "The monotonic clocks of two watchers run at about the same speed",
        (),
        "It depends on the machines of the watchers.",
    ),
    Assumption("dbt Cloud's clock is at most ten minutes behind that of the API server", ("clock",)),
    Assumption("The API server refuses a write with an old version", ("stale writes",)),
)


def of(assumption: Assumption, findings: Sequence[Finding]) -> Finding:
    """What is known of it."""
    found = [finding for finding in findings if finding.check in assumption.checks]
    if not found:
        return unknown(assumption.words, f"{assumption.words}: {assumption.why_not or 'not checked; use --start JOB.'}")
    worst = max(found, key=lambda finding: SEVERITY[finding.verdict])
    holds = {Verdict.GOOD: "holds", Verdict.WARNING: "holds, barely", Verdict.BAD: "does not hold"}
    told = holds.get(worst.verdict, worst.message)
    return Finding(assumption.words, worst.verdict, f"{assumption.words}: {told}")


# Unknown is worse than good: an assumption holds only if all of its checks could be made.
SEVERITY: Final = {Verdict.GOOD: 0, Verdict.UNKNOWN: 1, Verdict.WARNING: 2, Verdict.BAD: 3}
