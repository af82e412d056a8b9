"""Other people's words, made safe and short before they reach a status, an Event or a terminal."""

from __future__ import annotations

import re
from typing import Final

ESCAPES: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
"""Terminal control sequences (ECMA-48 CSI, OSC and two-character escapes): dbt colours its logs."""
UNPRINTABLE: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]"
)
"""Control and direction-changing characters, and lone surrogates, which JSON cannot carry."""


MAX_DIGITS: Final = 40
"""More than any id or resource version has."""


def natural(text: str, digits: int = MAX_DIGITS) -> int | None:
    """The number that the text writes in ASCII digits and nothing else; None: it does not, or in more than `digits`.

    int() by itself also accepts signs, spaces, underscores and other scripts' digits. It raises ValueError from 4,301
    digits on, and for "²", which isdigit() accepts.
    """
    return int(text) if len(text) <= digits and text.isascii() and text.isdigit() else None


def printable(text: str) -> str:
    """The text in plain characters."""
    return UNPRINTABLE.sub("", ESCAPES.sub("", text.replace("\r\n", "\n")))


def plain(text: str) -> str:
    """The text in plain characters, trimmed."""
    return printable(text).strip()


def clean(text: str, limit: int) -> str:
    """The text in plain characters, trimmed, and cut at `limit` characters with an ellipsis."""
    if not text:  # most of what dbt Cloud says of a run that is well, thousands of times a minute
        return text
    # Not all of a long text is searched: a reply may have megabytes. Four times the limit leaves enough of a text that
    # begins with escape sequences.
    return cut(plain(text[: 4 * limit]), limit)


def cut(text: str, limit: int) -> str:
    """The text, or as much of it as fits into `limit` characters with an ellipsis."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def cut_bytes(text: str, limit: int) -> str:
    """The text, or as much of it as fits into `limit` bytes of UTF-8 with an ellipsis."""
    raw = text.encode()
    return text if len(raw) <= limit else raw[: limit - len("…".encode())].decode(errors="ignore") + "…"


def one_line(text: str, limit: int) -> str:
    """The text as a part of a sentence: without line breaks, at most `limit` characters."""
    return clean(" ".join(text.split()), limit)
