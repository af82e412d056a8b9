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


def clean(text: str, limit: int) -> str:
    """The text in plain characters, trimmed, and cut at `limit` characters with an ellipsis."""
    plain = UNPRINTABLE.sub("", ESCAPES.sub("", text[: 4 * limit].replace("\r\n", "\n"))).strip()
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"
