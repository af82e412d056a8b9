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

To see the Events of a DbtRun, use `kubectl describe dr NAME` or `kubectl events --for dr/NAME`. Events explain what
happened, but only the status is reliable: an Event can be lost, and Kubernetes deletes it after an hour by default.
The watcher does not emit an Event for each poll.

The last rows are Events of [DbtRunMirrors](mirror-reference.md) (`kubectl events --for drm/NAME`). A mirror does not
emit an Event for each run, and repeats an Event about the same problem after ten minutes at the earliest.

"""
COLUMNS: Final = ("Reason", "Type", "Meaning")
MEANINGS: Final[dict[str, tuple[str, str]]] = {
    "Started": ("Normal", "dbt Cloud has started the run of an attempt."),
    "Adopted": ("Normal", "The object follows a run that it did not start (`spec.runId`, `reuse: Running`)."),
    "RunFound": (
        "Warning",
        "dbt Cloud has a run of this attempt that the status did not contain, as after a restore. The watcher follows "
        "it.",
    ),
    "Retrying": ("Warning", "An attempt did not succeed; another one follows (`spec.retry`)."),
    "ResumeRefused": ("Warning", "dbt Cloud did not resume the failed run, so the attempt runs the whole job."),
    "DuplicateCancelled": ("Warning", "A second run with the same marker was found and cancelled."),
    "Succeeded": ("Normal", "The object has ended in this phase."),
    "Cancelled": ("Normal", "The object has ended in this phase."),
    "Failed": ("Warning", "The object has ended in this phase."),
    "TimedOut": ("Warning", "The object has ended in this phase."),
    "Error": ("Warning", "The object has ended in this phase."),
    "Copied": ("Warning", "The object is a copy of another one. It starts no run until you set an annotation."),
    "OldCRD": ("Warning", "The CRD is older than the watcher, and the API server drops fields of the spec."),
    "NotCancelled": (
        "Warning",
        "The object was deleted. Its run continues, because a DbtRun of another namespace started it.",
    ),
    "DeletionGaveUp": ("Warning", "Ten minutes after the deletion, dbt Cloud has not confirmed the end of the run."),
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
    "Behind": "More runs match the mirror than `spec.maxPerMinute` allows. The rest wait; none is skipped.",
    "CreateRefused": "The API server refuses DbtRuns of the mirror, for example because of a ResourceQuota.",
    "ProjectNotAllowed": "The namespace of the mirror may see none of the projects that the mirror selects.",
}  # fmt: skip
MIRROR_WELL: Final[dict[str, str]] = {
    "Mirroring": "The mirror works again.",
    "Answering": "dbt Cloud answers requests of the mirror again.",
    "CaughtUp": "The mirror was behind, and every run that matches has its DbtRun now.",
}  # fmt: skip
MEANINGS.update({reason: ("Warning", meaning) for reason, meaning in MIRROR_TROUBLES.items()})
MEANINGS.update({reason: ("Normal", meaning) for reason, meaning in MIRROR_WELL.items()})
MEANINGS["Pruned"] = (
    "Normal",
    "The mirror has deleted DbtRuns that exceed its history limits. Emitted at most once an hour.",
)
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
