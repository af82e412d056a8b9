#!/usr/bin/env python
"""What the release workflow needs: whether a tag may be released, its notes, and the chart that names its image.

python -m deploy.release check v1.2.3        exit 1 and say what does not fit
python -m deploy.release notes v1.2.3        print the section of CHANGELOG.md
python -m deploy.release chart --registry R --digest D --out DIR
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
CHART: Final = ROOT / "helm/dbtrun"
IMAGE: Final = "dbtrun/watcher"
PLACEHOLDER: Final = "OWNER"
"""In files that name the public repository, until there is one."""
NAMES_THE_OWNER: Final = ("pyproject.toml", ".github/CODEOWNERS", "helm/dbtrun/Chart.yaml")


def problems(tag: str, root: Path = ROOT) -> Iterator[str]:
    """Why this tag cannot be released, a sentence each."""
    version = tag.removeprefix("v")
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    if project != version:
        yield f"pyproject.toml has version {project}, and the tag is {tag}."
    chart = (root / "helm/dbtrun/Chart.yaml").read_text()
    for key in ("version", "appVersion"):
        found = re.search(rf"^{key}: (.+)$", chart, re.MULTILINE)
        if found is None or found[1] != version:
            yield f"helm/dbtrun/Chart.yaml has {key} {found[1] if found else 'missing'}, and the tag is {tag}."
    if not notes(tag, root):
        yield f"CHANGELOG.md has no section [{version}] with a date: rename the section [Unreleased]."
    for file in NAMES_THE_OWNER:
        if re.search(rf"\b{PLACEHOLDER}\b", (root / file).read_text()):
            yield f"{file} has the placeholder {PLACEHOLDER}: write the account of the repository there."


def notes(tag: str, root: Path = ROOT) -> str:
    """The changes of a release, as CHANGELOG.md has them; empty if it has none."""
    heading = rf"^## \[{re.escape(tag.removeprefix('v'))}\] - \d{{4}}-\d\d-\d\d$"
    found = re.search(rf"{heading}\n(.*?)(?=^## |\Z)", (root / "CHANGELOG.md").read_text(), re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else ""


def chart(registry: str, digest: str, out: Path, helm: str = "helm") -> None:
    """Packages the chart so that it installs exactly this image, without a further value."""
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(CHART, Path(folder) / "dbtrun")
        _replace(copy / "values.yaml", '  registry: ""', f'  registry: "{registry}"')
        _replace(copy / "values.yaml", '  digest: ""', f'  digest: "{digest}"')
        version = re.search(r"^appVersion: (.+)$", (copy / "Chart.yaml").read_text(), re.MULTILINE)
        assert version, "a chart has an appVersion"  # noqa: S101
        _replace(
            copy / "Chart.yaml", f"image: {IMAGE}:{version[1]}", f"image: {registry}/{IMAGE}:{version[1]}@{digest}"
        )
        subprocess.run([helm, "package", str(copy), "--destination", str(out)], check=True)  # noqa: S603


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    if text.count(f"{old}\n") != 1:
        raise SystemExit(f"{path.name} must have exactly one line {old!r}.")
    path.write_text(text.replace(f"{old}\n", f"{new}\n"))


def main() -> None:
    """Does what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m deploy.release", description="Tools of the release workflow.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("check", "notes"):
        commands.add_parser(name).add_argument("tag")
    package = commands.add_parser("chart")
    package.add_argument("--registry", required=True)
    package.add_argument("--digest", required=True)
    package.add_argument("--out", required=True, type=Path)
    asked = parser.parse_args()
    if asked.command == "check":
        if found := list(problems(asked.tag)):
            raise SystemExit("\n".join(found))
    elif asked.command == "notes":
        print(notes(asked.tag))  # noqa: T201 - the output of the command
    else:
        chart(asked.registry, asked.digest, asked.out)


if __name__ == "__main__":
    main()
