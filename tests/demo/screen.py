"""What the demo shows, and its picture for the README: drawn from a recording of a real run.

python -m tests.demo --record    runs the demo, stores what it showed, and draws docs/demo.svg
python -m tests.demo.screen      draws docs/demo.svg again from the stored recording
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.table import Table
from rich.text import Text

RECORDING: Final = Path(__file__).parent / "recording.json"
PICTURE: Final = Path(__file__).parents[2] / "docs/demo.svg"
WIDTH: Final = 80
RUN_ID: Final = re.compile(r"\b7\d{13}\b")
ADDRESS: Final = re.compile(r"127\.0\.0\.1:\d+")
FONTS: Final = re.compile(r"@font-face \{\{.*?\}\}\s*", re.DOTALL)


class Recording(NamedTuple):
    """What one run of the demo showed."""

    lines: list[str]
    items: list[dict[str, Any]]
    event: dict[str, Any]

    def normal(self) -> Recording:
        """Without what differs from run to run: ids and a port."""
        items = [
            {"metadata": {"name": item["metadata"]["name"]}, "status": dict(zip(COLUMNS, row(item)[1:], strict=True))}
            for item in sorted(self.items, key=lambda item: str(item["metadata"]["name"]))
        ]
        text = ADDRESS.sub("127.0.0.1:8580", json.dumps([self.lines, items, self.event]))
        ids = {found: str(70_403_100_000_001 + at) for at, found in enumerate(dict.fromkeys(RUN_ID.findall(text)))}
        return Recording(*json.loads(RUN_ID.sub(lambda found: ids[found[0]], text)))

    @classmethod
    def stored(cls) -> Recording:
        """The recording of which the picture is drawn."""
        return cls(*json.loads(RECORDING.read_text()))

    def store(self) -> None:
        """Keeps it, in its normal form, and draws the picture."""
        RECORDING.write_text(json.dumps(self.normal(), indent=1, ensure_ascii=False) + "\n")
        PICTURE.write_text(picture(Recording.stored()))


COLUMNS: Final = ("phase", "reason", "runId", "message")


def table(items: list[dict[str, Any]]) -> Table:
    """The objects as rows. A narrow terminal cuts the message, then the reason; name and phase stay whole."""
    shown = Table(box=None, header_style="bold")
    for heading in ("NAME", "PHASE"):
        shown.add_column(heading, no_wrap=True)
    shown.add_column("REASON", overflow="ellipsis", max_width=20)
    shown.add_column("RUN", no_wrap=True)
    shown.add_column("MESSAGE", overflow="ellipsis")
    for item in items:
        name, phase, reason, run_id, message = row(item)
        shown.add_row(name, phase, _one_line(reason), run_id, _one_line(message))
    return shown


def row(item: dict[str, Any]) -> list[str]:
    """One object's cells."""
    status = item.get("status", {})
    return [item["metadata"]["name"], *(str(status.get(key, "")) for key in COLUMNS)]


def line(what: str) -> Text:
    """One line of what happens."""
    return Text("> ", style="dim").append(what, style="not dim")


def picture(recording: Recording) -> str:
    """The SVG: the steps, the objects at the end, and what Airflow got."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False, force_terminal=True)
    *steps, last = recording.lines
    for step in steps:
        console.print(line(step))
    console.print(table(recording.items))
    console.print(line(last))
    console.print(json.dumps(recording.event), markup=False)
    # Without the fonts that rich would load from another host.
    return console.export_svg(title="make demo", code_format=FONTS.sub("", CONSOLE_SVG_FORMAT), unique_id="demo")


def _one_line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


if __name__ == "__main__":
    PICTURE.write_text(picture(Recording.stored()))
