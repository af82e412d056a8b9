"""Nobody edits what is generated, and nobody forgets to generate it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dbtrun.api import ConditionType
from deploy import render
from docs import chart, generate
from tests.chart.helm import CHART, ROOT
from tests.controlplane import build, helm_path


def test_the_plain_manifests_are_what_the_chart_renders(binaries: None) -> None:
    assert render.stale() == []


def test_only_helm_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No control plane: rendering and `make docs` work where nothing but helm is there, and nothing can be built."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/helm").symlink_to(helm_path())
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "bin"))
    monkeypatch.setenv("DBTRUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(build, "_find_go", lambda folder, _: pytest.fail(f"{folder} is built"))
    assert render.stale() == []
    steps = subprocess.run(["make", "-n", "docs"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "deploy.render" in steps
    assert "controlplane" not in steps


def test_a_change_of_the_chart_is_noticed(binaries: None, tmp_path: Path) -> None:
    copy = shutil.copytree(CHART, tmp_path / "dbtrun")
    for template in render.CRDS.values():
        crd = copy / template
        crd.write_text(crd.read_text().replace("maxLength: 200\n", "maxLength: 201\n"))
    assert render.stale(copy) == [f"deploy/crd/dbtrun.dev_{plural}.yaml" for plural in render.CRDS]


def test_the_generated_pages_are_what_crd_code_and_chart_say() -> None:
    assert [path.name for path, text in generate.pages().items() if path.read_text() != text] == []


def test_a_change_of_the_values_is_noticed(tmp_path: Path) -> None:
    copy = shutil.copytree(CHART, tmp_path / "dbtrun")
    values = copy / "values.yaml"
    values.write_text(values.read_text().replace("revisionHistoryLimit: 10", "revisionHistoryLimit: 3"))
    assert generate.chart_readme(copy) != chart.README.read_text()


def test_every_condition_is_in_the_reference() -> None:
    assert set(generate.CONDITIONS) == set(ConditionType)


@pytest.mark.parametrize("module", ["deploy.render", "docs.generate"])
def test_an_unknown_flag_is_a_usage_error(module: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", module, "--chekc"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 2
    assert "unrecognized arguments: --chekc" in answer.stderr
