#!/usr/bin/env python
"""Renders the plain manifests from the chart, so that manifests are written by hand in one place only.

python -m deploy.render           write them
python -m deploy.render --check   exit 1 and name those that differ
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from tests.controlplane import helm_path

ROOT: Final = Path(__file__).resolve().parent.parent
CHART: Final = ROOT / "helm/dbtrun"
NAMESPACE: Final = "dbtrun-system"
CRD: Final = "templates/crd.yaml"

MANIFESTS: Final[dict[str, tuple[str, ...]]] = {
    "deploy/crd/dbtrun.dev_dbtruns.yaml": ("--show-only", CRD, "--set", "crds.keep=false"),
    "deploy/manifests/dbtrun.yaml": ("--set", "crds.enabled=false"),
}
"""File to the arguments of `helm template` that make it. The CRD has its own: it is applied first and kept last."""


def rendered(chart: Path = CHART) -> dict[str, str]:
    """The content of every manifest, by path from the root of the repository."""
    return {file: _template(chart, arguments) for file, arguments in MANIFESTS.items()}


def stale(chart: Path = CHART) -> list[str]:
    """The manifests that are not as the chart would render them now."""
    return [file for file, text in rendered(chart).items() if not _same(ROOT / file, text)]


def _same(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


def _template(chart: Path, arguments: tuple[str, ...]) -> str:
    with tempfile.TemporaryDirectory() as home:
        answer = subprocess.run(  # noqa: S603 - our own helm, our own arguments
            [helm_path(), "template", "dbtrun", chart, "--namespace", NAMESPACE, *arguments],
            env={"HOME": home},
            capture_output=True,
            text=True,
            check=False,
        )
    if answer.returncode:
        raise SystemExit(answer.stderr.strip())
    return _without_helm(answer.stdout)


def _without_helm(text: str) -> str:
    """No trace of a tool that does not manage these objects."""
    marks = ("helm.sh/chart:", "app.kubernetes.io/managed-by:", "# Source:")
    return "".join(line for line in text.splitlines(keepends=True) if not line.lstrip().startswith(marks))


def main() -> None:
    """Writes the manifests, or compares them with `--check`."""
    parser = argparse.ArgumentParser(prog="python -m deploy.render", description="Render deploy/ from the chart.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a manifest is out of date")
    if not parser.parse_args().check:
        for file, text in rendered().items():
            (ROOT / file).write_text(text)
    elif differing := stale():
        raise SystemExit(f"not as the chart renders them: {', '.join(differing)}; run `python -m deploy.render`")


if __name__ == "__main__":
    main()
