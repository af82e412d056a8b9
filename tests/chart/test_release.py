"""The chart as the release workflow packages it."""

from __future__ import annotations

import tarfile
from pathlib import Path

import yaml

from deploy import release
from tests.chart.helm import Helm, documents
from tests.controlplane import helm_path

DIGEST = "sha256:" + "ab" * 32


def test_a_released_chart_installs_its_image_by_digest(binaries: None, helm: Helm, tmp_path: Path) -> None:
    release.chart("registry.example.com/data", DIGEST, tmp_path, helm=str(helm_path()))
    (package,) = tmp_path.glob("dbtrun-*.tgz")
    rendered = helm.run("template", "dbtrun", str(package))
    assert rendered.returncode == 0, rendered.stderr
    (deployment,) = (each for each in documents(rendered.stdout) if each["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"registry.example.com/data/dbtrun/watcher@{DIGEST}"
    with tarfile.open(package) as archive:
        chart = archive.extractfile("dbtrun/Chart.yaml")
        assert chart is not None
        listed = yaml.safe_load(chart)["annotations"]["artifacthub.io/images"]
    assert f"registry.example.com/data/dbtrun/watcher:0.1.0@{DIGEST}" in listed
