"""A decision that nobody performs does not pass the type check."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DECISIONS = Path("watcher/lifecycle/decisions.py")
KINDS = ("Change", "Send", "Fetch", "Question", "Errand", "Decision")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all, with mypy's cache: each check would read the types of the standard library again."""
    return tmp_path_factory.mktemp("decisions")


def check(folder: Path, decisions: str) -> str:
    """What mypy says of the performer if the decisions were these."""
    planted = folder / "decisions.py"
    planted.write_text(decisions)
    command = [sys.executable, "-m", "mypy", "--config-file=", "--strict", "--follow-imports=skip"]
    command += ["--allow-subclassing-any", "--allow-untyped-decorators", "--no-warn-unused-ignores"]
    command += ["--explicit-package-bases", "--cache-dir", str(folder / "cache"), "--no-warn-return-any"]
    command += ["--shadow-file", str(DECISIONS), str(planted), str(DECISIONS), "watcher/perform.py"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=200).stdout


def plant(kind: str) -> str:
    """The decisions with one more of a kind."""
    code = (ROOT / DECISIONS).read_text()
    new = "@dataclass(frozen=True, slots=True)\nclass Planted:\n    pass\n\n\n"
    first = "Change = "
    assert f"\n{kind} = " in code
    head, _, tail = code.replace(f"\n{first}", f"\n{new}{first}", 1).partition(f"\n{kind} = ")
    return f"{head}\n{kind} = Planted | {tail}"


def test_every_decision_of_today_is_performed(folder: Path) -> None:
    assert "Success" in check(folder, (ROOT / DECISIONS).read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_a_decision_without_a_performer_fails_the_type_check(kind: str, folder: Path) -> None:
    told = check(folder, plant(kind))
    assert "Planted" in told
    assert {line.partition(":")[0] for line in told.splitlines() if ": error:" in line} == {"watcher/perform.py"}
