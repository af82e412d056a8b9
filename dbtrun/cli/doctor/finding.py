"""What was found, and how it is shown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Any, Final

import msgspec
from rich.text import Text


class Verdict(StrEnum):
    """What a check came to."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"
    UNKNOWN = "unknown"


MARKS: Final = {
    Verdict.GOOD: ("✓", "green"),
    Verdict.WARNING: ("!", "yellow"),
    Verdict.BAD: ("✗", "red"),
    Verdict.UNKNOWN: ("?", "dim"),
}


class Finding(msgspec.Struct, frozen=True):
    """One check: its name, what it came to, a sentence, and the way out."""

    check: str
    verdict: Verdict
    message: str
    remedy: str = ""


def good(check: str, message: str) -> Finding:
    """All is well."""
    return Finding(check, Verdict.GOOD, message)


def bad(check: str, message: str, remedy: str) -> Finding:
    """This stands between the user and a run."""
    return Finding(check, Verdict.BAD, message, remedy)


def warning(check: str, message: str, remedy: str) -> Finding:
    """A run may work, but something is not as it should be."""
    return Finding(check, Verdict.WARNING, message, remedy)


def unknown(check: str, message: str, remedy: str = "") -> Finding:
    """It could not be found out."""
    return Finding(check, Verdict.UNKNOWN, message, remedy)


def lines(title: str, findings: Iterable[Finding]) -> Iterator[Text]:
    """A title and a line for each finding, with the way out below it."""
    yield Text(title, style="bold")
    for finding in findings:
        mark, style = MARKS[finding.verdict]
        yield Text.assemble((f"  {mark} ", style), finding.message)
        if finding.remedy:
            yield Text(f"    → {finding.remedy}")


def trouble(findings: Iterable[Finding]) -> bool:
    """Whether something stands in the way."""
    return any(finding.verdict is Verdict.BAD for finding in findings)


def as_json(findings: Iterable[Finding]) -> Any:
    """The same for programs."""
    return [msgspec.to_builtins(finding) for finding in findings]
