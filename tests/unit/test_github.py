"""The files of a public repository: workflows that run nothing unpinned, and commands that exist."""

from __future__ import annotations

import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import release

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def jobs(path: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(path.read_text())["jobs"]
    return found


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in jobs(path).values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_each_action_is_pinned_by_commit_and_says_its_version(path: Path) -> None:
    used = re.findall(r"uses: (.+)$", path.read_text(), re.MULTILINE)
    assert used
    assert [each for each in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", each)] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_has_few_rights_and_an_end(path: Path) -> None:
    assert yaml.safe_load(path.read_text())["permissions"] in ({}, {"contents": "read"})
    assert [name for name, job in jobs(path).items() if "timeout-minutes" not in job] == []
    kept = [step for step in steps(path) if "checkout@" in step.get("uses", "") and step["with"]["persist-credentials"]]
    assert kept == []


def test_one_action_has_one_version() -> None:
    used = {each for path in WORKFLOWS for each in re.findall(r"uses: (\S+)", path.read_text())}
    assert len(used) == len({each.partition("@")[0] for each in used})


def test_the_unit_tests_run_on_every_python_that_is_promised() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    promised = [line.rpartition(" ")[2] for line in project["classifiers"] if re.search(r"Python :: 3\.\d+$", line)]
    assert jobs(GITHUB / "workflows/ci.yml")["unit"]["strategy"]["matrix"]["python"] == promised
    assert project["requires-python"] == f">={promised[0]}"


def test_the_targets_that_workflows_and_hooks_run_exist() -> None:
    commands = [step["run"] for path in WORKFLOWS for step in steps(path) if "run" in step]
    for job in (job for path in WORKFLOWS for job in jobs(path).values()):
        commands += job.get("strategy", {}).get("matrix", {}).get("command", [])
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    commands += [hook["entry"] for hook in hooks]
    run = {word for each in commands for word in re.findall(r"^make (.*)$", each, re.MULTILINE)}
    names = {name for words in run for name in words.split() if re.fullmatch(r"[a-z-]+", name)}
    names -= {name for name in names if name.startswith("--")}
    assert names
    assert names <= TARGETS


def test_dependabot_looks_where_dependencies_are() -> None:
    updates = yaml.safe_load((GITHUB / "dependabot.yml").read_text())["updates"]
    folders = {folder for each in updates for folder in each.get("directories", [each.get("directory")])}
    assert [folder for folder in folders if not (ROOT / folder.removeprefix("/")).is_dir()] == []
    assert {f"/{path.parent.relative_to(ROOT)}" for path in ROOT.glob("tests/controlplane/*/go.mod")} <= folders


def test_what_has_owners_exists() -> None:
    lines = [line for line in (GITHUB / "CODEOWNERS").read_text().splitlines() if line and not line.startswith("#")]
    paths = [line.split()[0] for line in lines]
    assert paths[0] == "*"
    assert [path for path in paths[1:] if not (ROOT / path.strip("/")).exists()] == []


@pytest.mark.parametrize("path", sorted((GITHUB / "ISSUE_TEMPLATE").glob("[bf]*.yml")), ids=lambda path: path.name)
def test_a_form_asks_for_something(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    fields = [each for each in form["body"] if each["type"] != "markdown"]
    assert {"name", "description", "body"} <= form.keys()
    assert any(each.get("validations", {}).get("required") for each in fields)
    assert len({each["id"] for each in fields}) == len(fields)


@pytest.fixture
def ready(tmp_path: Path) -> Path:
    """A tree of which version 1.2.3 can be released."""
    for file in ("pyproject.toml", ".github/CODEOWNERS", "helm/dbtrun/Chart.yaml", "CHANGELOG.md"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        text = (ROOT / file).read_text().replace("OWNER", "dbtrun").replace("0.1.0", "1.2.3")
        (tmp_path / file).write_text(text.replace("## [Unreleased]", "## [1.2.3] - 2026-01-02"))
    return tmp_path


def test_a_tree_that_fits_its_tag_can_be_released(ready: Path) -> None:
    assert list(release.problems("v1.2.3", ready)) == []
    assert release.notes("v1.2.3", ready).startswith("### Added")


@pytest.mark.parametrize(
    ("file", "old", "new", "sentence"),
    [
        ("pyproject.toml", "1.2.3", "1.2.4", "pyproject.toml has version 1.2.4"),
        ("helm/dbtrun/Chart.yaml", "\nversion: 1.2.3", "\nversion: 1.2.2", "Chart.yaml has version 1.2.2"),
        ("helm/dbtrun/Chart.yaml", "appVersion: 1.2.3", "appVersion: 1", "Chart.yaml has appVersion 1"),
        ("CHANGELOG.md", "## [1.2.3] - 2026-01-02", "## [Unreleased]", "CHANGELOG.md has no section [1.2.3]"),
        (".github/CODEOWNERS", "@dbtrun/", "@OWNER/", "CODEOWNERS has the placeholder OWNER"),
        ("helm/dbtrun/Chart.yaml", "github.com/dbtrun/", "github.com/OWNER/", "Chart.yaml has the placeholder OWNER"),
    ],
)
def test_what_does_not_fit_a_tag_is_one_sentence(ready: Path, file: str, old: str, new: str, sentence: str) -> None:
    (ready / file).write_text((ready / file).read_text().replace(old, new))
    (told,) = release.problems("v1.2.3", ready)
    assert sentence in told


def test_todays_tree_waits_for_its_repository() -> None:
    """Until there is one, nothing can be published by mistake."""
    assert [told for told in release.problems("v0.1.0") if "OWNER" in told]


def test_a_chart_without_the_line_to_replace_is_refused(tmp_path: Path) -> None:
    values = Path(shutil.copy(release.CHART / "values.yaml", tmp_path))
    with pytest.raises(SystemExit, match="exactly one line"):
        release._replace(values, '  registry: "x"', "")
