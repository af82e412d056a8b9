# ruff: noqa: INP001 - docs is a folder of pages, not a package
"""The life of a DbtRun as a state diagram: the transitions that the core made in a world in memory.

A few stories visit every transition. A test plays random stories too, and checks that they make no other ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from msgspec import structs

from dbtrun.api import MIRROR_LABEL, DbtRun, Phase, Reason, Retry, Reuse, Status
from tests.unit.lifecycle import test_model as model
from tests.unit.lifecycle.builders import run
from tests.unit.lifecycle.world import Fate, Reply, World
from watcher.lifecycle.facts import RunState

HEAD: Final = """\
# The life of a DbtRun

`docs/generate.py` generates this page: it simulates DbtRuns with the watcher's own code and records the phases. Do not
edit this page; change the code.

A DbtRun begins in `Pending`. The five phases on the right are final: they never change. In the phases `Queued` and
`Running`, dbt Cloud has a run. An arrow from or to the frame around the two applies to both. Only a DbtRun of a
[mirror](mirror-reference.md) goes from `Pending` to `Succeeded`, `Failed` or `TimedOut`: if its run is over when the
mirror finds it, the watcher writes the end at once.

"""
TABLE: Final = """

## Every transition

The last column lists the reasons that occurred in the simulation; others are possible. The
[reference](reference.md#reasons) lists all reasons.

"""
COLUMNS: Final = ("From", "To", "Reasons")
LIVE: Final = (Phase.QUEUED, Phase.RUNNING)
SPECS: Final[dict[str, dict[str, Any]]] = {
    "start": {},
    "retry": {"retry": Retry(limit=1, backoff_seconds=0)},
    "adopt": {"run_id": 1_000},
    "mirror": {"run_id": 1_000},
    "reuse": {"reuse": Reuse.RUNNING},
    "active": {"active_deadline_seconds": 60},
    "queue": {"queue_deadline_seconds": 20},
}
MOVES: Final = {
    "refused": model.moved("answer", model.answer, Reply.REFUSED),
    "lost": model.moved("answer", model.answer, Reply.LOST),
    "dropped": model.moved("answer", model.answer, Reply.DROPPED),
    "down": model.moved("outage", model.outage, True),
    "minutes": model.moved("wait", World.pass_time, 700.0),
    "hours": model.moved("wait", World.pass_time, 25_000.0),
    "hide": model.moved("hide", model.hide),
    "others": model.moved("others", model.ask_others),
    "goes on": model.moved("go_on", model.go_on, RunState.SUCCESS),
    "fails": model.moved("go_on", model.go_on, RunState.ERROR),
    "is cancelled": model.moved("go_on", model.go_on, RunState.CANCELLED),
    "times out": model.moved("time_out", model.time_out),
    "watcher dies": model.moved("tick", World.tick, Fate.DIES_BEFORE),
    "cancel": model.CANCEL,
    "delete": model.DELETE,
}
STORIES: Final[tuple[tuple[str, RunState, tuple[tuple[int, str], ...]], ...]] = (
    ("start", RunState.SUCCESS, ()),
    ("start", RunState.ERROR, ()),
    ("start", RunState.CANCELLED, ()),
    ("start", RunState.SUCCESS, ((3, "cancel"),)),
    ("start", RunState.SUCCESS, ((3, "delete"),)),
    ("start", RunState.SUCCESS, ((4, "delete"),)),
    ("start", RunState.SUCCESS, ((4, "cancel"),)),
    ("start", RunState.SUCCESS, ((8, "down"), (5, "cancel"))),
    ("start", RunState.ERROR, ((8, "down"), (5, "cancel"))),
    ("start", RunState.SUCCESS, ((4, "goes on"),)),
    ("start", RunState.ERROR, ((4, "goes on"),)),
    ("start", RunState.CANCELLED, ((4, "goes on"),)),
    ("start", RunState.CANCELLED, ((8, "cancel"),)),
    ("start", RunState.CANCELLED, ((8, "delete"),)),
    ("start", RunState.SUCCESS, ((0, "refused"), (4, "refused"))),
    ("start", RunState.SUCCESS, ((0, "dropped"), (4, "hours"))),
    ("start", RunState.SUCCESS, ((0, "lost"), (5, "goes on"))),
    ("start", RunState.SUCCESS, ((4, "hide"), (4, "hours"))),
    ("start", RunState.SUCCESS, ((7, "hide"), (3, "hide"))),
    ("start", RunState.SUCCESS, ((4, "down"), (3, "minutes"), (0, "hours"))),
    ("start", RunState.SUCCESS, ((7, "down"), (1, "hours"))),
    ("start", RunState.SUCCESS, ((3, "down"), (3, "lost"), (5, "hours"), (4, "down"))),
    ("start", RunState.SUCCESS, ((6, "fails"), (0, "cancel"))),
    ("active", RunState.CANCELLED, ((6, "minutes"), (1, "is cancelled"), (0, "watcher dies"))),
    ("retry", RunState.ERROR, ()),
    ("retry", RunState.ERROR, ((4, "goes on"),)),
    ("retry", RunState.ERROR, ((7, "goes on"), (0, "delete"))),
    ("adopt", RunState.SUCCESS, ()),
    ("adopt", RunState.SUCCESS, ((0, "others"),)),
    ("mirror", RunState.SUCCESS, ((0, "others"), (0, "goes on"), (0, "goes on"))),
    ("mirror", RunState.SUCCESS, ((0, "others"), (0, "goes on"), (0, "fails"))),
    ("mirror", RunState.SUCCESS, ((0, "others"), (0, "goes on"), (0, "is cancelled"))),
    ("mirror", RunState.SUCCESS, ((0, "others"), (0, "goes on"), (0, "times out"))),
    ("mirror", RunState.SUCCESS, ((0, "others"),)),
    ("reuse", RunState.SUCCESS, ((0, "others"), (0, "goes on"), (2, "goes on"))),
    ("reuse", RunState.SUCCESS, ((0, "others"),)),
    ("active", RunState.SUCCESS, ((6, "hours"),)),
    ("active", RunState.CANCELLED, ((6, "hours"),)),
    ("queue", RunState.CANCELLED, ()),
    ("queue", RunState.CANCELLED, ((4, "goes on"),)),
    ("queue", RunState.SUCCESS, ((0, "cancel"),)),
    ("queue", RunState.SUCCESS, ((2, "delete"),)),
    ("queue", RunState.SUCCESS, ((7, "hide"), (5, "minutes"))),
    ("queue", RunState.SUCCESS, ((6, "down"), (3, "hours"), (0, "delete"), (0, "goes on"))),
)
"""The spec, the end that dbt Cloud gives the run, and what happens after how many steps."""

Transition = tuple[Phase, Phase]
Transitions = dict[Transition, frozenset[Reason]]


def transitions() -> Transitions:
    """Every change of the phase in these stories, with the reasons for the new one."""
    found: dict[Transition, set[Reason]] = {}
    for spec, end, story in STORIES:
        obj = run(held=False, **SPECS[spec])
        obj = mirrored(obj) if spec == "mirror" else obj
        for before, after in told(obj, [end], [(steps, MOVES[move]) for steps, move in story]):
            found.setdefault((before, after.phase or Phase.PENDING), set()).add(after.reason or Reason.ACCEPTED)
    return {pair: frozenset(reasons) for pair, reasons in sorted(found.items(), key=lambda item: _order(item[0]))}


def mirrored(obj: DbtRun) -> DbtRun:
    """The object as a mirror creates it."""
    return structs.replace(obj, metadata=structs.replace(obj.metadata, labels={MIRROR_LABEL: "everything"}))


def told(obj: DbtRun, ends: list[RunState], story: model.Story) -> Iterator[tuple[Phase, Status]]:
    """The changes of the phase in one story."""
    world = model.world_of(obj, ends, True)
    model.told(world, story)
    return changes(world.api.told)


def changes(told: list[Status]) -> Iterator[tuple[Phase, Status]]:
    """Each status with another phase than the one before it, and that one's phase."""
    phases = [Phase.PENDING, *(status.phase or Phase.PENDING for status in told)]
    return ((before, after) for before, after in zip(phases, told, strict=False) if after.phase is not before)


def diagram(found: Transitions) -> str:
    """The diagram in Mermaid's language."""
    lines = ["stateDiagram-v2", "  direction LR", "  [*] --> Pending"]
    lines += ["  state Live {", "    direction TB", "    Queued --> Running", "  }"]
    lines += [f"  {before} --> {after}" for before, after in dict.fromkeys(_drawn(found))]
    return "```mermaid\n" + "\n".join(lines) + "\n```"


def _drawn(found: Transitions) -> Iterator[tuple[str, str]]:
    """The arrows: what both live phases do is drawn once, from or to the frame around them."""
    for before, after in found:
        ends = [_frame(found, before, after, 0), _frame(found, before, after, 1)]
        if ends != ["Live", "Live"] and (before, after) != LIVE:
            yield ends[0], ends[1]


def _frame(found: Transitions, before: Phase, after: Phase, end: int) -> str:
    phase = (before, after)[end]
    if phase not in LIVE:
        return phase.value
    both = all(((live, after) if end == 0 else (before, live)) in found for live in LIVE)
    return "Live" if both else phase.value


def rows(found: Transitions) -> list[tuple[str, ...]]:
    """A row for each transition."""
    return [
        (f"`{before}`", f"`{after}`", ", ".join(f"`{reason}`" for reason in sorted(reasons)))
        for (before, after), reasons in found.items()
    ]


def _order(pair: Transition) -> tuple[int, int]:
    phases = list(Phase)
    return phases.index(pair[0]), phases.index(pair[1])
