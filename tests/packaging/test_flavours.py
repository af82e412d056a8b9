"""Every way to install the distribution, in an environment of its own: the command line works in each."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import uv

ROOT = Path(__file__).parents[2]
AIRFLOW = ROOT / "tests/airflow/constraints-3.3.2.txt"
OURS = ROOT / "constraints.txt"

WATCHER_LACKS = "`watcher` needs kopf: pip install 'dbtrun[watcher]'."
SIMULATE_LACKS = "`simulate` needs trustme: pip install 'dbtrun[simulator]'."


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel and one extra in it."""

    program: Path

    def says(self, *arguments: str) -> tuple[int, str]:
        """The exit code and everything that was printed."""
        env = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
        ended = subprocess.run([self.program, *arguments], env=env, capture_output=True, text=True, check=False)
        return ended.returncode, ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT, check=True)
    (built,) = folder.glob("*.whl")
    return built


def install(wheel: Path, extra: str, folder: Path) -> Installed:
    constraints = AIRFLOW if extra == "airflow" else OURS
    name = f"{wheel}[{extra}]" if extra else str(wheel)
    python = folder / "bin/python"
    subprocess.run([uv.find_uv_bin(), "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
    install = [uv.find_uv_bin(), "pip", "install", "--quiet", "--python", str(python), "-c", str(constraints), name]
    subprocess.run(install, check=True)
    return Installed(folder / "bin/dbtrun")


@pytest.mark.parametrize(
    ("extra", "watcher_says", "simulate_says"),
    [
        ("", (2, WATCHER_LACKS), (2, SIMULATE_LACKS)),
        ("cli", (2, WATCHER_LACKS), (2, SIMULATE_LACKS)),
        ("watcher", (1, "name a kubeconfig"), (2, SIMULATE_LACKS)),
        ("simulator", (2, WATCHER_LACKS), (0, "--remote-control")),
        ("airflow", (2, WATCHER_LACKS), (2, "`simulate` needs ")),
    ],
)
def test_the_command_line_works_and_says_what_a_command_lacks(
    wheel: Path, tmp_path: Path, extra: str, watcher_says: tuple[int, str], simulate_says: tuple[int, str]
) -> None:
    installed = install(wheel, extra, tmp_path / "environment")
    code, text = installed.says("--help")
    assert code == 0, text
    assert "Run the watcher" in text
    assert "Run a simulated dbt Cloud on this machine." in text
    assert installed.says("--version")[0] == 0
    assert installed.says("watcher", "--help")[0] == 0
    # Without rights and settings the check finds nothing, but it says so: its modules need the watcher's extra alone.
    code, text = installed.says("check")
    assert (code, "Traceback" in text) == (0 if extra == "watcher" else code, False), text
    for arguments, (expected, words) in ((["watcher"], watcher_says), (["simulate", "--help"], simulate_says)):
        code, text = installed.says(*arguments)
        assert code == expected, text
        assert words in text
        assert "Traceback" not in text
    code, text = installed.says("get", "--kubeconfig", "/no/such/file")
    works = extra in ("cli", "airflow")  # Airflow brings the same libraries
    assert code == (1 if works else 2), text
    assert ("The kubeconfig /no/such/file does not exist." if works else "dbtrun[cli]") in text
