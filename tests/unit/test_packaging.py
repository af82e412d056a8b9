"""One distribution, two images: what each needs, and that it needs no more."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[<>=\[]", requirement)[0] for requirement in requirements}


def imports(modules: str, *without: str) -> None:
    """Imports modules in a fresh interpreter in which others cannot be."""
    hide = f"import sys; sys.modules.update(dict.fromkeys({without!r})); import {modules}"
    ended = subprocess.run([sys.executable, "-c", hide], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_an_airflow_image_gets_three_small_libraries() -> None:
    assert names(PROJECT["dependencies"]) == {"click", "msgspec", "kubernetes-asyncio"}


def test_what_airflow_loads_needs_nothing_of_the_watcher() -> None:
    loaded = "airflow_trigger.waiting.hub, airflow_trigger.waiting.event, airflow_trigger.provider"
    imports(loaded, "kopf", "httpx", "click", "starlette", "uvicorn", "prometheus_client", "watcher")


def test_airflows_side_imports_no_module_named_watcher(tmp_path: Path) -> None:
    """A file `watcher.py` beside the DAGs, or another package of that name, would be imported instead of ours."""
    (tmp_path / "watcher.py").write_text("raise AssertionError('watcher was imported')\n")
    script = """
import importlib, pkgutil, sys
import airflow_trigger, dbtrun.kube
names = [found.name for package in (airflow_trigger, dbtrun.kube)
         for found in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
for name in names:
    importlib.import_module(name)
print(len(names), [name for name in sys.modules if name.partition(".")[0] == "watcher"])
"""
    path = os.pathsep.join(map(str, (tmp_path, ROOT)))
    ended = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    count, found = ended.stdout.split(maxsplit=1)
    assert int(count) > 30
    assert found == "[]\n"


def test_a_dag_file_loads_no_kubernetes_client() -> None:
    """It is parsed again and again, and the client takes a third of a second of processor time."""
    tasks = ("operator", "sensor", "artifacts", "listing", "trigger")
    reacting = ("assets", "event_trigger", "model_assets", "event_sensor")
    modules = (f"airflow_trigger.{name}" for name in (*tasks, *reacting))
    imports(", ".join(modules), "aiohttp", "kubernetes_asyncio")


def test_the_kubernetes_client_is_loaded_beside_the_event_loop() -> None:
    """A triggerer has one loop for all its triggers."""
    script = """
import asyncio, sys, threading
from dbtrun.kube.config import ClusterConfig
from airflow_trigger.waiting.hub import subscribe

class Finder:
    def find_spec(self, name, path, target=None):
        if name in ("aiohttp", "kubernetes_asyncio"):
            print(name, "in the main thread" if threading.current_thread() is threading.main_thread() else "beside it")

async def main():
    async with subscribe(ClusterConfig(config_file="no/such/file"), "default", "a") as states:
        print(await anext(states))

sys.meta_path.insert(0, Finder())
asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.stdout.splitlines()[:-1] == ["aiohttp beside it", "kubernetes_asyncio beside it"], ended.stderr
    assert "no/such/file does not exist" in ended.stdout


def test_the_watcher_needs_neither_airflow_nor_the_simulators_libraries() -> None:
    imports("watcher.app, watcher.command", "airflow", "trustme", "watcher.simulator")


def test_every_dependency_has_a_floor() -> None:
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    assert [one for group in groups for one in group if ">=" not in one] == []


def test_the_lock_file_carries_no_addresses() -> None:
    assert not re.search(r"https?://|--index|--find-links|@ ", (ROOT / "constraints.txt").read_text())


def test_the_image_is_built_on_a_base_that_nobody_can_replace() -> None:
    """A tag can come to name another image; a digest cannot."""
    lines = (ROOT / "deploy/Dockerfile").read_text().splitlines()
    (base,) = (line.removeprefix("ARG PYTHON=") for line in lines if line.startswith("ARG PYTHON="))
    assert re.fullmatch(r"python:[0-9.]+-slim@sha256:[0-9a-f]{64}", base)
    assert {line.split()[1] for line in lines if line.startswith("FROM ")} == {"${PYTHON}"}
