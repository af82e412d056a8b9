"""Completion, and what a command says whose libraries are not installed."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from dbtrun.cli.completion import completed
from dbtrun.cli.main import COMMANDS, load, main
from tests.controlplane import kubectl_path

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_code(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert "_DBTRUN_COMPLETE" in result.output


def test_kubectl_gets_commands_options_and_choices() -> None:
    assert completed(["de"]) == ["describe\tShow the state of a DbtRun or a mirror, the reason, and what to do.", ":4"]
    assert any(line.startswith("--on-interrupt\t") for line in completed(["run", "1", "--on"]))
    assert completed(["get", "-o", "y"]) == ["yaml", ":4"]
    assert completed([])[-1] == ":4"


def test_without_a_cluster_no_name_is_offered_and_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/no/such/file")
    assert completed(["describe", ""]) == [":4"]
    assert completed(["get", "mirrors", ""]) == [":4"]


def test_the_word_for_mirrors_is_offered_where_it_can_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/no/such/file")
    assert completed(["get", "mi"]) == ["mirrors", ":4"]
    assert completed(["get", "nightly", "mi"]) == [":4"]
    assert completed(["logs", "mi"]) == [":4"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_explains_itself(name: str) -> None:
    command = load(name)
    assert command.name == name
    assert COMMANDS[name].help.rstrip(".").split()[0] in (command.help or "")
    listed = CliRunner().invoke(main, ["--help"]).output
    assert f"  {name} " in listed


@pytest.mark.parametrize("name", ["get", "run", "doctor", "top"])
def test_a_command_whose_library_is_missing_says_so_in_one_sentence(name: str) -> None:
    hide = "import sys; sys.modules['rich'] = None; from dbtrun.cli.main import main; main(prog_name='dbtrun')"
    ended = subprocess.run(
        [sys.executable, "-c", hide, name, "--help"], capture_output=True, text=True, check=False, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith(f"Error: `{name}` needs rich")
    assert ended.stderr.rstrip().endswith("pip install 'dbtrun[cli]'.")


def test_a_laptop_needs_nothing_of_the_watcher() -> None:
    loaded = ", ".join(sorted({lazy.module for lazy in COMMANDS.values() if lazy.extra == "cli"}))
    hidden = ("kopf", "httpx", "airflow", "starlette", "uvicorn", "prometheus_client", "watcher")
    script = f"import sys; sys.modules.update(dict.fromkeys({hidden!r})); import {loaded}"
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_kubectl_finds_the_plugin_and_its_completion(tmp_path: Path) -> None:
    """The scripts that an installation makes of the entry points, and the real kubectl."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    for name in ("kubectl-dbtrun", "kubectl_complete-dbtrun"):
        module, _, function = scripts[name].partition(":")
        script = tmp_path / name
        script.write_text(f"#!{sys.executable}\nfrom {module} import {function}\n{function}()\n")
        script.chmod(0o755)

    def kubectl(*arguments: str) -> str:
        env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
        ended = subprocess.run([kubectl_path(), *arguments], env=env, capture_output=True, text=True, check=True)
        return ended.stdout

    assert kubectl("dbtrun", "get", "--help").startswith("Usage: kubectl dbtrun get ")
    assert "describe\tShow the state of a DbtRun" in kubectl("__complete", "dbtrun", "de")
