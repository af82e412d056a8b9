"""Each wrong import that is planted into a copy of the code breaks the contract that forbids it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("dbtrun", "watcher", "airflow_trigger")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three packages and their contracts."""
    folder = tmp_path_factory.mktemp("layers")
    shutil.copy(ROOT / "pyproject.toml", folder)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def broken(copy: Path) -> list[str]:
    """The contracts that the copy breaks."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as lint; lint()", "--no-cache"]
    checked = subprocess.run(
        command,
        cwd=copy,
        env={**os.environ, "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "Contracts:" in checked.stdout, checked.stdout + checked.stderr
    names = re.findall(r"^(.+) BROKEN\b", checked.stdout, re.MULTILINE)
    assert f"{len(names)} broken." in checked.stdout
    return names


def test_the_code_as_it_is_keeps_all_contracts(copy: Path) -> None:
    assert broken(copy) == []


WRONG_IMPORTS = [
    ("watcher/perform.py", "kopf", "only watcher.cluster imports kopf"),
    ("watcher/reconcile.py", "watcher.perform", "the layers of watcher"),
    ("watcher/lifecycle/decide.py", "watcher.cluster.mirror", "the layers of watcher"),
    ("watcher/cluster/mirror.py", "watcher.lifecycle.decide", "the layers of watcher"),
    ("watcher/lifecycle/known.py", "watcher.dbtcloud.errors", "the layers of watcher"),
    ("watcher/lifecycle/case.py", "time", "the core is pure: no I/O, no clock, no randomness"),
    ("watcher/lifecycle/facts.py", "watcher.lifecycle.decide", "the layers of watcher.lifecycle"),
    ("watcher/dbtcloud/poller.py", "watcher.cluster.mirror", "dbt Cloud and Kubernetes do not know each other"),
    ("watcher/dbtcloud/errors.py", "watcher.dbtcloud.client", "the layers of watcher.dbtcloud"),
    ("watcher/cluster/mirror.py", "watcher.cluster.scope", "the layers of watcher.cluster"),
    ("watcher/telemetry/logs.py", "watcher.telemetry.health", "the layers of watcher.telemetry"),
    ("watcher/app.py", "watcher.simulator.model", "the layers of watcher"),
    ("watcher/simulator/model.py", "watcher.simulator.server", "the layers of watcher.simulator"),
    ("watcher/simulator/model.py", "watcher.lifecycle.facts", "the simulator knows nothing of the watcher"),
    ("watcher/app.py", "airflow", "the watcher's image needs no Airflow"),
    ("dbtrun/api/__init__.py", "httpx", "the API is light: the Airflow image has nothing more"),
    ("airflow_trigger/trigger.py", "watcher.clock", "Airflow's side imports nothing of the watcher"),
]


@pytest.mark.parametrize(("path", "module", "contract"), WRONG_IMPORTS, ids=lambda part: str(part)[:40])
def test_a_wrong_import_is_caught(copy: Path, path: str, module: str, contract: str) -> None:
    file = copy / path
    code = file.read_text()
    try:
        file.write_text(f"{code}\n\ndef planted() -> None:\n    import {module}\n")
        assert contract in broken(copy)
    finally:
        file.write_text(code)


@pytest.mark.parametrize("room", ["", "lifecycle", "dbtcloud", "cluster", "telemetry", "simulator"])
def test_a_new_file_needs_a_place(copy: Path, room: str) -> None:
    file = copy / "watcher" / room / "planted.py"
    try:
        file.write_text('"""Without a place."""\n')
        assert broken(copy) == [f"the layers of {'.'.join(filter(None, ('watcher', room)))}"]
    finally:
        file.unlink()
