"""The outcome by node of a run with several dbt steps: a node counts as the last step that ran it left it.

The steps are read from the last to the first, so that a node which was seen is done with. What is kept between two
steps is a number for each node: file by file, a hostile dbt Cloud could otherwise fill the memory of all.
"""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from dbtrun.api import FailedNode, Results
from dbtrun.api.status import (
    FAILED_NODE,
    MAX_FAILURE_MESSAGE,
    MAX_FAILURES,
    MAX_STEP_NAME,
    MAX_UNREAD_STEPS,
    RUN_RESULTS,
)
from dbtrun.scrub import told
from dbtrun.text import clean
from watcher.dbtcloud import wire
from watcher.lifecycle.facts import RunState, StepFacts

MAX_KINDS: Final = 20
"""Different statuses counted by name; dbt has ten."""
MAX_ODD: Final = 1_000
"""Different statuses that are counted by name before the most common ones are chosen."""
OTHER: Final = "other"
MAX_NODES: Final = 60_000
"""Nodes of all steps that are kept apart: half a megabyte."""
MAX_FILES: Final = 30
"""Steps whose results are read: the last ones."""
COMMAND: Final = re.compile(r"`\s*dbt\w*\s+([^`]*)`?")
"""How dbt Cloud names a dbt step: "Invoke dbt with `dbt build`"."""
NO_RESULTS: Final = frozenset({"clean", "compile", "debug", "deps", "docs", "init", "list", "ls", "parse", "show"})
"""Commands that run no node. Some write a run_results.json all the same, which says `success` of everything."""
RUNS_NODES: Final = frozenset(
    {"build", "clone", "freshness", "retry", "run", "run-operation", "seed", "snapshot", "source", "test"}
)
NO_RUN: Final = frozenset({"compile", "generate", "list", "parse", "show"})
"""The same, as a run_results.json names them in `args.which`."""


class File(NamedTuple):
    """The artifact that says how the nodes of a step ended."""

    step: int | None
    """None: the last one."""
    path: str


def files_of(steps: Sequence[StepFacts]) -> list[File]:
    """The files to read, of the last step first: none for steps that did not run, or run no node."""
    named = [(step, COMMAND.search(step.name)) for step in steps]
    # Observed: "Invoke dbt with `dbt build`". Where no name has a command, nothing says which steps have results.
    if not any(command for _, command in named):
        return [File(None, RUN_RESULTS)]  # an older dbt Cloud, or one that did not list its steps
    ran = [
        File(step.index, "sources.json" if "freshness" in words else RUN_RESULTS)
        for step, command in named
        if command is not None and step.started_at is not None and step.state >= RunState.SUCCESS
        if not (words := set(command[1].split())) & NO_RESULTS or words & RUNS_NODES
    ]
    return ran[::-1]


class Merge:
    """Counts nodes, each once. What it was given first counts.

    Args:
        secret: the connection's own token, which no message may show.
    """

    def __init__(self, secret: str = "") -> None:
        self._secret = secret
        self._seen = array("q")
        self._counts: Counter[str] = Counter()
        self._failures: list[FailedNode] = []
        self._unread: list[int] = []
        self._read = self._full = False

    def add(self, report: wire.Report) -> bool:
        """Counts what is new in a step's report. False: there are too many nodes, and none was counted."""
        if report.args is not None and report.args.which in NO_RUN:
            return True
        if self._full:
            return False
        # Hashes of 64 bits: 60,000 names would take megabytes. Two names that share one would count as one node.
        before = frozenset(self._seen)
        seen = before.union(hash(node.unique_id) for node in report.results)
        self._full = len(seen) > MAX_NODES
        if self._full and self._read:
            return False
        self._seen = array("q", () if self._full else seen)
        self._read = True
        for node in report.results:
            if before and hash(node.unique_id) in before:
                continue
            status = clean(node.status, wire.MAX_WORD)
            kind = status if status in self._counts or len(self._counts) < MAX_ODD else OTHER
            self._counts[kind] += 1
            if node.status in FAILED_NODE and len(self._failures) < MAX_FAILURES:
                name = clean(node.unique_id or "", MAX_STEP_NAME)
                message = told(node.words, MAX_FAILURE_MESSAGE, self._secret)
                self._failures.append(FailedNode(unique_id=name, status=status, message=message))
        return True

    def lack(self, step: int | None) -> None:
        """A step's results cannot be read."""
        self._unread.append(step or 0)

    def results(self) -> Results | None:
        """The sum of all steps; None: no step could be read."""
        if not self._read:
            return None
        total, known = self._counts.total(), Counter(self._counts)
        # It is added again below, with the kinds that are too many to be named.
        del known[OTHER]
        named = dict(known.most_common(MAX_KINDS))
        rest = total - sum(named.values())
        return Results(
            counts=named | ({OTHER: rest} if rest else {}),
            failures=tuple(self._failures),
            unread_steps=tuple(sorted(self._unread)[-MAX_UNREAD_STEPS:]),
        )
