"""The lines of which `dbtrun describe` is made. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Final

import msgspec
from rich.text import Text

from dbtrun.cli.words import duration, one_line

LABEL: Final = 13
"""Characters of the names of fields."""


class Event(msgspec.Struct, rename="camel", kw_only=True):
    """What an Event of Kubernetes says."""

    reason: str = ""
    note: str = ""
    type: str = "Normal"
    event_time: datetime | None = None


def field(name: str, value: str, style: str = "") -> Iterator[Text]:
    """A line with a value; none if the value is empty."""
    if value:
        yield Text.assemble((f"{name}:".ljust(LABEL), "bold"), (value, style))


def title(text: str) -> Text:
    """What the indented lines below are about."""
    return Text(f"{text}:", style="bold")


def indented(texts: Iterable[Text]) -> Iterator[Text]:
    """Lines below a title."""
    for text in texts:
        yield Text("  ").append_text(text)


def ago(moment: datetime, now: datetime) -> str:
    """How long ago it was."""
    return f"{duration((now - moment).total_seconds())} ago"


def events(seen: Sequence[Event], now: datetime) -> Iterator[Text]:
    """The Events of an object, in their order."""
    if not seen:
        return
    yield title("Events")
    for event in seen:
        when = ago(event.event_time, now) if event.event_time else ""
        reason = (event.reason, "yellow" if event.type == "Warning" else "")
        yield Text.assemble(f"  {when.rjust(10)}  ", reason, f"  {one_line(event.note)}")
