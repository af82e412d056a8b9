"""Why a run did not succeed: the step at which it ended, and the sentence in its log that says so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import takewhile
from typing import Final

from dbtrun.api import FailedStep, Results
from dbtrun.api.status import FAILED_NODE, MAX_MESSAGE, MAX_STEP_NAME
from dbtrun.text import clean, one_line
from watcher.lifecycle.facts import RunFacts, RunState, StepFacts

MAX_CAUSE: Final = 300
"""Characters of a cause, which is part of a sentence; the whole of it is in the log's tail."""
STAMP: Final = re.compile(r"^(?:\d{4}-\d\d-\d\d[T ])?\d\d:\d\d:\d\d(?:[.,]\d+)?Z?\s+(?:\[[\w ()-]+\]:?\s*)*")
"""What dbt writes before a line: a time, in debug logs also a level and a thread."""
HEADLINE: Final = re.compile(
    r"^(?:\[?error\]?\b|fatal:|(?:[A-Z]\w+ ){1,3}Error\b|\w+(?:Error|Exception):|Failure in )", re.IGNORECASE
)
"""How a line begins that names an error: dbt's ("Database Error in model …"), git's, Python's."""
PREAMBLE: Final = re.compile(r"^Encountered an error:?$", re.IGNORECASE)
CLOSING: Final = re.compile(
    r"^(?:Done\.|Finished|Completed with|dbt encountered|Running with dbt|…$|\d+ of \d+ )", re.IGNORECASE
)
"""What a log ends with, or goes on with, that is no cause."""
MAX_LINES: Final = 4
"""Lines of an error that are put into one sentence."""


def failed_step(steps: Sequence[StepFacts]) -> StepFacts | None:
    """The step at which the run ended: the last one in error, else the last that began and did not succeed."""
    # A run that was cancelled or timed out has no step in error: it ended at the last one that began.
    begun = [step for step in steps if step.started_at is not None and step.state != RunState.SUCCESS]
    errors = [step for step in steps if step.state == RunState.ERROR]
    return next(reversed(errors or begun), None)


def told_step(run: RunFacts | None) -> FailedStep | None:
    """That step as a status shows it."""
    step = failed_step(run.steps or ()) if run is not None else None
    if step is None:
        return None
    return FailedStep(index=step.index, name=clean(step.name, MAX_STEP_NAME), log_tail=step.log)


def cause_of(results: Results | None, step: FailedStep | None, message: str) -> str:
    """What went wrong, for a sentence: the first failed node, else the step and its log, else dbt Cloud's message."""
    if results is not None and results.failures:
        node = results.failures[0]
        more = sum(results.counts.get(status, 0) for status in FAILED_NODE) - 1
        others = f" (and {more} more)" if more > 0 else ""
        return f"{node.unique_id}{others}: {one_line(node.message, MAX_CAUSE) or node.status}"
    if step is None:
        return one_line(message, MAX_MESSAGE)
    name = f"step {step.index}, {step.name}"
    return f"{name}: {headline(step.log_tail) or one_line(message, MAX_CAUSE) or 'its log is empty'}"


def headline(log: str) -> str:
    """The sentence of a log that names the error; else its last words. Empty: there are none."""
    lines = [line for raw in log.splitlines() if (line := STAMP.sub("", raw.rstrip())).strip()]
    starts = [
        at
        for at, line in enumerate(lines)
        if HEADLINE.match(line) and not PREAMBLE.match(line) and not CLOSING.match(line)
    ]
    if starts:
        first = starts[0]
        indented = takewhile(lambda line: line.startswith((" ", "\t")), lines[first + 1 : first + MAX_LINES])
        return one_line(" ".join([lines[first], *indented]), MAX_CAUSE)
    words = [line for line in lines if not (CLOSING.match(line) or PREAMBLE.match(line))]
    return one_line(words[-1], MAX_CAUSE) if words else ""
