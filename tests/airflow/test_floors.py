"""The lowest versions that the wheel asks for: everything that a DAG imports is there.

With other releases than those of the environments, for Airflow's own constraints pin the compatibility layer lower than
what is newest: 3.1.5 has 1.10.1. Those of 2.11.0 have 1.7.0, which lacks what is needed.
"""

from __future__ import annotations

import asyncio
import os
from importlib.metadata import requires
from pathlib import Path

import pytest
import uv

from tests.airflow.environments import install_dbtrun

pytestmark = pytest.mark.timeout(900)

FLOOR = "1.10.1"
IMPORTED = ("operator", "sensor", "listing", "artifacts", "trigger", "link", "http", "provider", "killed")


async def ran(*argv: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """What a command says; it must end well."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*argv, stdout=pipe, stderr=pipe, env=env, cwd=cwd)
    out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()[-2000:]
    return out.decode()


def test_the_floor_is_what_the_package_asks_for() -> None:
    assert any(f"common-compat>={FLOOR}" in line for line in requires("dbtrun") or ())


@pytest.mark.parametrize("airflow", ["2.11.0", "3.1.5"])
async def test_everything_is_imported_with_the_lowest_versions(tmp_path: Path, airflow: str) -> None:
    python = str(tmp_path / "venv" / "bin" / "python")
    tool = uv.find_uv_bin()
    await ran(tool, "venv", "--quiet", "--no-python-downloads", "--python", "3.11", str(tmp_path / "venv"))
    wanted = [f"apache-airflow=={airflow}", f"apache-airflow-providers-common-compat=={FLOOR}"]
    others = ["msgspec>=0.19", "kubernetes-asyncio>=32,<37", "asgiref>=3.8"]
    await ran(tool, "pip", "install", "--quiet", "--python", python, *wanted, *others)
    site = await asyncio.to_thread(install_dbtrun, tmp_path / "wheel")
    modules = ", ".join(f"airflow_trigger.{module}" for module in IMPORTED)
    env = {"PATH": os.environ["PATH"], "AIRFLOW_HOME": str(tmp_path / "home"), "PYTHONPATH": str(site)}
    assert "imported" in await ran(
        python, "-W", "ignore", "-c", f"import {modules}; print('imported')", env=env, cwd=tmp_path
    )
