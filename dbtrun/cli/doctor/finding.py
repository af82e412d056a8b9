"""What was found."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import msgspec


class Verdict(StrEnum):
    """What a check came to."""

    GOOD = "good"
    WARNING = "warning"
    BAD = "bad"
    UNKNOWN = "unknown"


class Finding(msgspec.Struct, frozen=True):
    """One check: its name, what it came to, a sentence, and the way out."""

    check: str
    verdict: Verdict
    message: str
    remedy: str = ""


class Told(msgspec.Struct, frozen=True):
    """What `dbtrun check` prints: what it found from the pod of a watcher."""

    findings: tuple[Finding, ...]
    requests: int = 0
    record: dict[str, Any] | None = None
    """A scenario of the simulator that behaves like the account, without names."""


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


def trouble(findings: Iterable[Finding]) -> bool:
    """Whether any of them is a problem."""
    return any(finding.verdict is Verdict.BAD for finding in findings)


def as_json(findings: Iterable[Finding]) -> Any:
    """The same for programs."""
    return [msgspec.to_builtins(finding) for finding in findings]
