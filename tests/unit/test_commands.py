"""docs/commands.yaml: each command of the documentation is run by a test, or the list says why not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.node.documents import blocks, commands

ROOT: Final = Path(__file__).parents[2]
LISTED: Final[dict[str, list[dict[str, str]]]] = yaml.safe_load((ROOT / "docs/commands.yaml").read_text())
PAGES: Final = [
    str(path.relative_to(ROOT))
    for path in [
        *sorted((ROOT / "docs").rglob("*.md")),
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
        *(ROOT / name for name in ("deploy/README.md", "helm/dbtrun/README.md")),
    ]
]
PROGRAM: Final = re.compile(r"^(kubectl|helm|make|docker|kind|curl|velero|pip|python3?|dbtrun) ", re.MULTILINE)
ENTRIES: Final = [(page, entry) for page, entries in LISTED.items() for entry in entries]


def one_line(command: str) -> str:
    """A command without its comment, and with single spaces, as the list has it."""
    return " ".join(re.sub(r" {4,}# .*$", "", command.replace("\\\n", " "), flags=re.MULTILINE).split())


def typed(page: str) -> list[str]:
    return [one_line(command) for command in commands((ROOT / page).read_text())]


@pytest.mark.parametrize("page", PAGES)
def test_the_list_has_every_command_of_a_page_and_no_other(page: str) -> None:
    listed = [one_line(entry["command"]) for entry in LISTED.get(page, [])]
    assert sorted(set(typed(page)) - set(listed)) == [], "add it to docs/commands.yaml"
    assert sorted(set(listed) - set(typed(page))) == [], "the page does not have it any more"
    assert len(set(listed)) == len(listed)


def test_the_list_has_no_other_page() -> None:
    assert LISTED.keys() <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_a_command_has_a_prompt(page: str) -> None:
    """Else the list would not know of it."""
    assert [block for block in blocks((ROOT / page).read_text(), "") if PROGRAM.search(block)] == []


@pytest.mark.parametrize(("page", "entry"), ENTRIES, ids=[one_line(entry["command"])[:60] for _, entry in ENTRIES])
def test_what_is_said_to_run_a_command_does(page: str, entry: dict[str, str]) -> None:
    assert entry.keys() in ({"command", "run"}, {"command", "not-run"})
    if "not-run" in entry:
        assert entry["not-run"].endswith("."), "a sentence"
        named = re.findall(r"tests/[\w/]+\.py", entry["not-run"])
        assert [name for name in named if not (ROOT / name).exists()] == []
        return
    file, _, test = entry["run"].partition("::")
    code = (ROOT / file).read_text()
    if test:
        assert re.search(rf"^(async )?def {test}\(", code, re.MULTILINE)
        assert page in code, "a test that runs a page's commands reads the page"
    else:
        assert entry["command"] in code.splitlines()
