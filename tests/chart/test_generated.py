"""Nobody edits what is generated, and nobody forgets to generate it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deploy import render
from docs import generate
from tests.chart.helm import CHART, ROOT
from watcher.api import ConditionType


def test_the_plain_manifests_are_what_the_chart_renders(binaries: None) -> None:
    assert render.stale() == []


def test_a_change_of_the_chart_is_noticed(binaries: None, tmp_path: Path) -> None:
    chart = shutil.copytree(CHART, tmp_path / "dbtrun")
    crd = chart / render.CRD
    crd.write_text(crd.read_text().replace("maxLength: 200\n", "maxLength: 201\n"))
    assert render.stale(chart) == ["deploy/crd/dbtrun.dev_dbtruns.yaml"]


def test_the_reference_is_what_crd_and_code_say() -> None:
    crd = yaml.safe_load(generate.CRD.read_text())
    assert generate.REFERENCE.read_text() == generate.reference(crd)


def test_every_condition_is_in_the_reference() -> None:
    assert set(generate.CONDITIONS) == set(ConditionType)


@pytest.mark.parametrize("module", ["deploy.render", "docs.generate"])
def test_an_unknown_flag_is_a_usage_error(module: str) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", module, "--chekc"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 2
    assert "unrecognized arguments: --chekc" in answer.stderr
