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


def broken(copy: Path) -> dict[str, str]:
    """The contracts that the copy breaks, and what is said of each."""
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
    _, *parts = re.split(r"^(.+)\n-{3,}\n\n", checked.stdout, flags=re.MULTILINE)
    details = dict(zip(parts[::2], parts[1::2], strict=True))
    return {name: details[name] for name in names}


def test_the_code_as_it_is_keeps_all_contracts(copy: Path) -> None:
    assert broken(copy) == {}


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
    ("dbtrun/values.py", "dbtrun.api.phases", "the layers of dbtrun"),
    ("dbtrun/kube/cluster.py", "dbtrun.cli.words", "the layers of dbtrun"),
    ("dbtrun/api/spec.py", "dbtrun.api.objects", "the layers of dbtrun.api"),
    ("dbtrun/kube/errors.py", "dbtrun.kube.cluster", "the layers of dbtrun.kube"),
    ("dbtrun/cli/words.py", "dbtrun.cli.runs", "the layers of dbtrun.cli"),
    ("dbtrun/cli/runs.py", "airflow_trigger.shared.objects", "Airflow's side is nothing to the command line"),
    ("airflow_trigger/waiting/hub.py", "airflow_trigger.trigger", "the layers of airflow_trigger"),
    ("airflow_trigger/task/identity.py", "airflow_trigger.task.runs", "the layers of airflow_trigger.task"),
    (
        "airflow_trigger/reacting/position.py",
        "airflow_trigger.reacting.reader",
        "the layers of airflow_trigger.reacting",
    ),
    ("airflow_trigger/reacting/reader.py", "airflow_trigger.task.runs", "the layers of airflow_trigger"),
    ("airflow_trigger/waiting/waits.py", "airflow_trigger.waiting.follow", "the layers of airflow_trigger.waiting"),
    ("airflow_trigger/shared/objects.py", "airflow_trigger.shared.naming", "the layers of airflow_trigger.shared"),
    ("airflow_trigger/trigger.py", "watcher.clock", "Airflow's side imports nothing of the watcher"),
]


@pytest.fixture(scope="module")
def planted(copy: Path) -> dict[str, str]:
    """What is said when all of them are there: to read the code and its contracts takes seconds."""
    code = {path: (copy / path).read_text() for path, _, _ in WRONG_IMPORTS}
    try:
        for path, module, _ in WRONG_IMPORTS:
            with (copy / path).open("a") as file:
                file.write(f"\n\ndef planted() -> None:\n    import {module}\n")
        return broken(copy)
    finally:
        for path, text in code.items():
            (copy / path).write_text(text)


@pytest.mark.parametrize(("path", "module", "contract"), WRONG_IMPORTS, ids=lambda part: str(part)[:40])
def test_a_wrong_import_is_caught(planted: dict[str, str], path: str, module: str, contract: str) -> None:
    importer = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert re.search(rf"\b{re.escape(importer)} -> {re.escape(module)} \(", planted[contract])


ROOMS = [
    *("watcher", "watcher/lifecycle", "watcher/mirrors", "watcher/dbtcloud", "watcher/cluster", "watcher/telemetry"),
    "watcher/simulator",
    "watcher/webhooks",
    *("dbtrun", "dbtrun/api", "dbtrun/connection", "dbtrun/kube", "dbtrun/cli"),
    *("dbtrun/cli/doctor", "dbtrun/cli/mirrors"),
    *("airflow_trigger", "airflow_trigger/task", "airflow_trigger/waiting", "airflow_trigger/shared"),
    "airflow_trigger/reacting",
]


def test_every_room_is_one_in_which_a_new_file_needs_a_place() -> None:
    rooms = {str(file.parent.relative_to(ROOT)) for package in PACKAGES for file in (ROOT / package).rglob("*.py")}
    assert rooms == set(ROOMS)


def test_a_new_file_needs_a_place(copy: Path) -> None:
    files = [copy / room / "planted.py" for room in ROOMS]
    try:
        for file in files:
            file.write_text('"""Without a place."""\n')
        assert set(broken(copy)) == {f"the layers of {room.replace('/', '.')}" for room in ROOMS}
    finally:
        for file in files:
            file.unlink()
