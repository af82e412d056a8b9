from __future__ import annotations

import io

import pytest
from rich.console import Console

from tests.demo import screen
from tests.demo.__main__ import main
from tests.demo.screen import Recording

AGAIN = "run `python -m tests.demo --record`"


async def test_the_demo_ends_with_the_event_of_a_success_and_shows_what_its_picture_shows() -> None:
    shown = await main()
    assert (shown.event["status"], shown.event["name"]) == ("success", "nightly")
    assert screen.picture(shown.normal()) == screen.PICTURE.read_text(), AGAIN


def test_the_picture_in_the_readme_is_drawn_from_the_recording() -> None:
    assert screen.PICTURE.read_text() == screen.picture(Recording.stored()), "run `python -m tests.demo.screen`"
    readme = (screen.PICTURE.parents[1] / "README.md").read_text()
    assert f"](docs/{screen.PICTURE.name})" in readme


@pytest.mark.parametrize("width", [80, 45])
def test_a_narrow_terminal_shows_whole_names_and_phases_first(width: int) -> None:
    items = Recording.stored().items
    items[0]["status"] |= {"reason": "ActiveDeadlineExceeded", "message": "word " * 40}
    console = Console(width=width, file=io.StringIO())
    console.print(screen.table(items))
    head, *rows = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert head.split()[:2] == ["NAME", "PHASE"]
    assert [row.split()[:2] for row in rows] == [[i["metadata"]["name"], i["status"]["phase"]] for i in items]
    assert all(len(row) <= width for row in [head, *rows])


def test_the_picture_loads_nothing() -> None:
    assert "url(http" not in screen.PICTURE.read_text()
