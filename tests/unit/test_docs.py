"""The pages of the documentation are true to the tree: what they name exists, and what is listed is complete."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import grimp
import pytest

from docs import events, generate, settings
from watcher.settings import Settings

ROOT = Path(__file__).parents[2]
DECISIONS = ROOT / "docs/decisions"
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
SECTIONS = ["Context", "Decision", "Consequences", "Alternatives"]
FILE = re.compile(
    r"`((?:watcher|airflow_trigger|dbtrun(?!/results\.json)|tests|deploy|helm|docs)"
    r"/[\w./-]+\.(?:py|ya?ml|json|lua|md))(?:::\w+)?`"
)


def number(path: Path) -> int:
    return int(path.name.partition("-")[0])


def decisions() -> list[Path]:
    return sorted(DECISIONS.glob("[0-9]*.md"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_file_that_a_page_names_exists(page: Path) -> None:
    assert [name for name in FILE.findall(page.read_text()) if not (ROOT / name).exists()] == []


def test_the_index_lists_every_decision_by_its_title_and_status() -> None:
    rows = re.findall(r"^\| (\d+) \| \[(.+)\]\((.+)\) \| (.+) \|$", (DECISIONS / "README.md").read_text(), re.MULTILINE)
    expected = []
    for path in decisions():
        text = path.read_text()
        title, status = re.match(r"# \d+\. (.+)\n\n\*\*Status:\*\* (\w+)", text).groups()  # type: ignore[union-attr]
        expected.append((number(path), title, path.name, status))
    assert [(int(row[0]), row[1], row[2], row[3].partition(",")[0]) for row in rows] == expected
    assert [number(path) for path in decisions()] == list(range(1, len(expected) + 1))


@pytest.mark.parametrize("path", decisions(), ids=lambda path: path.stem)
def test_a_decision_has_its_four_sections(path: Path) -> None:
    assert re.findall(r"^## (.+)$", path.read_text(), re.MULTILINE) == SECTIONS


def test_the_page_of_the_settings_is_what_code_and_chart_say() -> None:
    assert generate.SETTINGS.read_text() == generate.settings_page(), "run `make docs`"


def test_the_page_says_how_the_chart_chooses_a_setting() -> None:
    """Those with a value of their own are in the template, the others are not."""
    template = (ROOT / "helm/dbtrun/templates/deployment.yaml").read_text()
    chosen = {name for name in settings.BY_OTHER_VALUES if f"DBTRUN_{name.upper()}\n" in template}
    assert chosen == set(settings.BY_OTHER_VALUES)
    assert [name for name in settings.WITHOUT_A_VALUE if f"DBTRUN_{name.upper()}" in template] == []


def test_a_number_has_a_unit() -> None:
    numbers = [each for each in fields(Settings) if type(each.default) in (int, float)]
    assert [each.name for each in numbers if not each.metadata["unit"]] == []
    assert [each.name for each in numbers if not each.metadata["why"]] == []


def test_the_page_of_the_events_is_what_the_code_says() -> None:
    assert generate.EVENTS.read_text() == generate.events_page(), "run `make docs`"


def test_every_event_has_a_meaning_and_its_type() -> None:
    """One that is missing: say in docs/events.py what it means."""
    emitted = events.emitted()
    assert emitted.keys() == events.MEANINGS.keys()
    assert {reason for reason, types in emitted.items() if events.MEANINGS[reason][0] not in types} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_metric_that_a_page_names_exists(page: Path) -> None:
    known = set(re.findall(r"^\| `(dbtrun_\w+)`", (ROOT / "docs/reference.md").read_text(), re.MULTILINE))
    assert known
    named = re.findall(r"\bdbtrun_\w+", page.read_text())
    plain = {re.sub(r"_(bucket|sum|count)$", "", name) for name in named}
    assert plain - known - {"dbtrun_name"} == set()


def room(module: str) -> str:
    """A row of the table in CONTRIBUTING.md."""
    package, _, rest = module.partition(".")
    if package == "airflow_trigger":
        return package
    folder = rest.partition(".")[0]
    return f"{package}/{folder}" if (ROOT / package / folder).is_dir() and folder else f"{package}/*.py"


def test_the_table_of_packages_says_what_each_imports() -> None:
    graph = grimp.build_graph("dbtrun", "watcher", "airflow_trigger", cache_dir=None)
    imported: dict[str, set[str]] = {}
    for module in graph.modules:
        ours = {room(other) for other in graph.find_modules_directly_imported_by(module)} - {room(module)}
        imported.setdefault(room(module), set()).update(ours)
    # The command line loads the simulator by its name, and only if it is asked to.
    table = re.findall(r"^\| `([\w/.*]+)` \| .* \| (.+) \|$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert {name: set(re.findall(r"`([^`]+)`", others)) for name, others in table} == imported
