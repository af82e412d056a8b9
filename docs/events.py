# ruff: noqa: INP001 - docs is a folder of pages, not a package
"""The Kubernetes Events that the watcher writes, as a page; `emitted` finds them in the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Set
from pathlib import Path
from typing import Final

from dbtrun.api import REASON_DOCS, Phase, Reason

ROOT: Final = Path(__file__).resolve().parent.parent

HEAD: Final = """\
# Events

`docs/generate.py` generates this page from the code: change the code instead.

`kubectl describe dr NAME` and `kubectl events --for dr/NAME` show them. Events explain what happened; the status is
what counts. An Event can be lost, and Kubernetes deletes it after an hour by default. There is no Event per poll.

The last rows are about [DbtRunMirrors](mirror-reference.md): `kubectl events --for drm/NAME`. There is no Event per
run. The same trouble of a mirror is told again after ten minutes at the earliest.

"""
COLUMNS: Final = ("Reason", "Type", "Meaning")
MEANINGS: Final[dict[str, tuple[str, str]]] = {
    "Started": ("Normal", "dbt Cloud has started the run of an attempt."),
    "Adopted": ("Normal", "The object follows a run that it did not start (`spec.runId`, `reuse: Running`)."),
    "RunFound": (
        "Warning",
        "dbt Cloud has a run of this attempt that the status did not contain, as after a restore. It is followed.",
    ),
    "Retrying": ("Warning", "An attempt did not succeed; another one follows (`spec.retry`)."),
    "ResumeRefused": ("Warning", "dbt Cloud did not resume the failed run, so the attempt runs the whole job."),
    "DuplicateCancelled": ("Warning", "A second run with the same marker was found and cancelled."),
    "Succeeded": ("Normal", "The object has ended in this phase."),
    "Cancelled": ("Normal", "The object has ended in this phase."),
    "Failed": ("Warning", "The object has ended in this phase."),
    "TimedOut": ("Warning", "The object has ended in this phase."),
    "Error": ("Warning", "The object has ended in this phase."),
    "Copied": ("Warning", "The object is a copy of another one, and starts nothing until an annotation says so."),
    "OldCRD": ("Warning", "The CRD is older than the watcher, and the API server drops fields of the spec."),
    "NotCancelled": ("Warning", "The object was deleted. Its run continues: one of another namespace started it."),
    "DeletionGaveUp": ("Warning", "The object was deleted ten minutes ago, and the end of its run is not confirmed."),
    "EndNotWritten": ("Warning", "The object was deleted, and its last status could not be written."),
    "ReconcileFailed": ("Warning", "An unexpected error occurred several times in a row; see the watcher's log."),
}  # fmt: skip
"""Type and meaning of each Event, by its reason."""
TROUBLES: Final = (
    Reason.INVALID_CONNECTION, Reason.OTHER_ACCOUNT, Reason.UNREACHABLE, Reason.SERVER_ERROR, Reason.RATE_LIMITED,
    Reason.UNAUTHORIZED, Reason.FORBIDDEN,
)  # fmt: skip
"""Why dbt Cloud cannot be asked about an object. The reference of the reasons explains them."""
MEANINGS.update({reason.value: ("Warning", REASON_DOCS[reason].meaning) for reason in TROUBLES})
MIRROR_TROUBLES: Final[dict[str, str]] = {
    "Behind": "A mirror: more runs match than `spec.maxPerMinute` allows. They wait; none is left out.",
    "CreateRefused": "A mirror: the API server refuses its DbtRuns, for example because of a ResourceQuota.",
    "ProjectNotAllowed": "A mirror: its namespace may see none of the projects that it selects.",
}  # fmt: skip
MIRROR_WELL: Final[dict[str, str]] = {
    "Mirroring": "A mirror works again.",
    "Answering": "A mirror: dbt Cloud answers again.",
    "CaughtUp": "A mirror was behind, and every run that matches has its DbtRun now.",
}  # fmt: skip
MEANINGS.update({reason: ("Warning", meaning) for reason, meaning in MIRROR_TROUBLES.items()})
MEANINGS.update({reason: ("Normal", meaning) for reason, meaning in MIRROR_WELL.items()})
MEANINGS["Pruned"] = ("Normal", "A mirror has deleted DbtRuns beyond its history limits; once an hour at most.")
ENDS: Final = frozenset(phase.value for phase in Phase if phase.final)


def rows() -> list[tuple[str, ...]]:
    """A row for each Event."""
    return [(f"`{reason}`", *said) for reason, said in MEANINGS.items()]


def emitted(folder: Path = ROOT / "watcher") -> dict[str, set[str]]:
    """The types of each Event that the code makes, by its reason."""
    found: dict[str, set[str]] = {}
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "Event" and len(node.args) == 3:
                types = set(_types(node.args[0]))
                for reason in _reasons(node.args[1], types):
                    found.setdefault(reason, set()).update(types)
    return found


def _types(node: ast.expr) -> Iterator[str]:
    yield from (each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str))


def _reasons(node: ast.expr, types: Set[str]) -> Iterator[str]:
    """The constant texts, members of Reason, and the final phases where the reason is a phase."""
    text = ast.unparse(node)
    if text == "outcome.phase.value":
        yield from ENDS
    elif text == "trouble.reason.value":
        yield from (reason.value for reason in TROUBLES)
    elif text == "told.reason" and types == {"Normal"}:
        yield from MIRROR_WELL
    elif text == "told.reason":
        yield from MIRROR_TROUBLES
        yield from (reason.value for reason in TROUBLES)
    elif text.startswith("Reason."):
        yield Reason[text.split(".")[1]].value
    else:
        yield from _types(
            ast.IfExp(ast.Constant(None), node.body, node.orelse) if isinstance(node, ast.IfExp) else node
        )
