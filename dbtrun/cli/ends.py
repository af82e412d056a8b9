"""The exit code of a command that waits for runs: how they ended. Pure, and documented in docs/cli.md."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Final

from dbtrun.api import Phase


class Exit(IntEnum):
    """Exit codes. 1 and 2 are those of every command: it could not do what was asked, and wrong usage."""

    # 124 is that of timeout(1), and 130 is what shells report after Ctrl-C. Neither they nor click use 10 to 14.
    SUCCEEDED = 0
    NOT_DONE = 1
    USAGE = 2
    FAILED = 10
    CANCELLED = 11
    TIMED_OUT = 12
    ERROR = 13
    GONE = 14
    WAITED_LONG_ENOUGH = 124
    INTERRUPTED = 130


MEANINGS: Final[dict[Exit, str]] = {
    Exit.SUCCEEDED: "All is well. For a command that waits: every run succeeded.",
    Exit.NOT_DONE: "The command could not do what was asked; the message says why.",
    Exit.USAGE: "Wrong usage: an unknown option, a missing argument, or a library that is not installed.",
    Exit.FAILED: "A run ended in the phase `Failed`.",
    Exit.CANCELLED: "A run ended in the phase `Cancelled`.",
    Exit.TIMED_OUT: "A run ended in the phase `TimedOut`.",
    Exit.ERROR: "A run ended in the phase `Error`.",
    Exit.GONE: "A DbtRun was deleted before its end was seen.",
    Exit.WAITED_LONG_ENOUGH: "The time of `--timeout` passed before every run had ended. The runs continue.",
    Exit.INTERRUPTED: "You pressed Ctrl-C.",
}
ENDS: Final[dict[str, Exit]] = {
    Phase.SUCCEEDED: Exit.SUCCEEDED,
    Phase.FAILED: Exit.FAILED,
    Phase.CANCELLED: Exit.CANCELLED,
    Phase.TIMED_OUT: Exit.TIMED_OUT,
    Phase.ERROR: Exit.ERROR,
}


def exit_code(phases: Iterable[str | None]) -> Exit:
    """The code for runs that ended in these phases; None: deleted before. The first that did not succeed decides."""
    codes = (Exit.GONE if phase is None else ENDS.get(phase, Exit.ERROR) for phase in phases)
    return next((code for code in codes if code is not Exit.SUCCEEDED), Exit.SUCCEEDED)
