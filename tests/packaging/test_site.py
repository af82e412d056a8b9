"""The documentation's site: complete, without a broken link, and without anything from another host."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
FOREIGN = re.compile(r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"?https?://[^\s\">]+")
PARTS = ("docs", "deploy", "helm", "tests", "dbtrun", "watcher", "airflow_trigger")
FILES = ("mkdocs.yml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", ".ci")


def build(root: Path, folder: Path) -> tuple[int, str]:
    """Exit code and output of a strict build, without what `make site` fetches."""
    script = folder / "mermaid.min.js"
    script.touch()
    ended = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder / "site")],
        cwd=root,
        env={**os.environ, "DBTRUN_MERMAID": str(script), "NO_MKDOCS_2_WARNING": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    return ended.returncode, ended.stdout + ended.stderr


class Built(NamedTuple):
    """A site, and how its build ended."""

    site: Path
    code: int
    output: str


WRONG: Final = {
    "[page](nowhere.md)": "'nowhere.md'",
    "[section](install.md#nowhere)": "an anchor '#nowhere'",
    "[file](../deploy/nowhere.yaml)": "nowhere.yaml",
}
"""What is planted into a page, and what is said of it."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The site of a copy with some mistakes in it. A strict build goes on to its end before it fails."""
    folder = tmp_path_factory.mktemp("site")
    root = folder / "tree"
    for name in PARTS:
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, root / name)
    with (root / "docs/gitops.md").open("a") as page:
        page.write(f"\n{', '.join(WRONG)}\n")
    (root / "docs/orphan.md").write_text("# Orphan\n")
    return Built(folder / "site", *build(root, folder))


@pytest.fixture(scope="module")
def site(built: Built) -> Path:
    return built.site


def test_only_what_was_planted_is_wrong(built: Built) -> None:
    assert built.code == 1
    for complaint in (*WRONG.values(), "orphan.md"):
        assert complaint in built.output
    lines = built.output.splitlines()
    assert sum(line.startswith("WARNING") for line in lines) == len(WRONG) + 1, built.output
    assert [line for line in lines if line.startswith("  - ")] == ["  - orphan.md"], "the pages without a place"


def test_every_page_is_there(site: Path) -> None:
    pages = [path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")]
    indices = {path.with_name("index.html") if path.name == "README.html" else path for path in pages}
    assert [path for path in indices if not (site / path).exists()] == []


def test_nothing_comes_from_another_host(site: Path) -> None:
    pages = {path: FOREIGN.findall(path.read_text()) for path in site.rglob("*.html")}
    assert {path: found for path, found in pages.items() if found} == {}
    with_diagram = [path for path in pages if 'class="mermaid"' in path.read_text()]
    assert with_diagram
    assert [path for path in with_diagram if "mermaid.min.js" not in path.read_text()] == []


def test_the_api_pages_describe_the_operator_and_its_arguments(site: Path) -> None:
    page = (site / "api/airflow.html").read_text()
    assert 'id="airflow_trigger.operator.DbtRunOperator"' in page
    assert "active_deadline" in page
