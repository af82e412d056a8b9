"""Tables that fit the terminal, and that keep every word where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from rich.cells import cell_len
from rich.text import Text

GAP: Final = 2
"""Spaces between columns."""


class Column(NamedTuple):
    """A column. `least`: how narrow it may become; None: it is never shortened."""

    title: str
    least: int | None = None


class Cell(NamedTuple):
    """A text in a style of rich."""

    text: str
    style: str = ""


Row = Sequence[Cell]


def lay_out(columns: Sequence[Column], rows: Sequence[Row], width: int | None) -> list[int]:
    """How wide each column is. What does not fit is taken from the widest of those that may be shortened.

    Args:
        columns: their titles.
        rows: their texts.
        width: of the terminal; None: no limit.
    """
    widths = [
        # Not len: a wide character takes two cells of a terminal.
        max([cell_len(column.title), *(cell_len(row[index].text) for row in rows)])
        for index, column in enumerate(columns)
    ]
    if width is None:
        return widths
    excess = sum(widths) + GAP * (len(widths) - 1) - width
    while excess > 0:
        spare = {
            index: widths[index] - max(column.least, cell_len(column.title))
            for index, column in enumerate(columns)
            if column.least is not None
        }
        widest = max((index for index in spare if spare[index] > 0), key=lambda index: widths[index], default=None)
        if widest is None:
            break
        widths[widest] -= 1
        excess -= 1
    return widths


def lines(columns: Sequence[Column], rows: Sequence[Row], width: int | None) -> list[Text]:
    """The table, line by line, its head first."""
    widths = lay_out(columns, rows, width)
    head = [Cell(column.title, "bold") for column in columns]
    last = len(columns) - 1
    told = []
    for row in (head, *rows):
        line = Text(no_wrap=True, overflow="ellipsis")
        for index, (cell, room) in enumerate(zip(row, widths, strict=True)):
            text = Text(cell.text, style=cell.style)
            text.truncate(room, overflow="ellipsis", pad=index != last)
            line.append_text(text)
            if index != last:
                line.append(" " * GAP)
        line.rstrip()
        told.append(line)
    return told
