"""Images without a registry: built by buildah, kept as archives, each under a hash of all that went into it.

`built` is the way from a Dockerfile to an archive that `Node.load` takes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import yaml

from tests.controlplane import build
from tests.controlplane.errors import BuildError
from tests.node import needs

ROOT: Final = Path(__file__).parents[2]
PAUSE: Final = "localhost/pause:1"
_CHART: Final = yaml.safe_load((ROOT / "helm/dbtrun/Chart.yaml").read_text())
WATCHER: Final = f"docker.io/dbtrun/watcher:{_CHART['appVersion']}"
"""The image that the chart asks for."""
PYTHON: Final = "docker.io/library/python:3.11-slim"
"""What Dockerfiles build upon. No registry is reached: Debian's Python, under this name, stands for it."""
_SUITE: Final = "bookworm"
_KEPT_SECONDS: Final = 3 * 24 * 3600
"""After its last use."""
_PACKAGES: Final = ("python3", "python3-venv", "python-is-python3", "ca-certificates")


@dataclass(frozen=True)
class Recipe:
    """One image: its full name with a tag, a Dockerfile's text, the folder of its context, its build arguments."""

    name: str
    dockerfile: str
    context: Path
    arguments: Mapping[str, str] = field(default_factory=dict)

    def key(self) -> str:
        """A hash of all that goes into it, but for packages that it downloads."""
        hashed = hashlib.sha256()
        for text in (self.name, self.dockerfile, repr(sorted(self.arguments.items())), *_BASE_INPUTS):
            hashed.update(text.encode() + b"\0")
        for path in self._copied():
            hashed.update(str(path.relative_to(self.context)).encode() + b"\0" + path.read_bytes())
        return hashed.hexdigest()[:16]

    def _copied(self) -> Iterator[Path]:
        """The files of the context that its instructions name."""
        for line in re.findall(r"^(?:COPY|ADD) +(?!.*--from=)(.+)$", self.dockerfile, re.MULTILINE):
            *sources, _target = (word for word in line.split() if not word.startswith("--"))
            for source in (self.context / name for name in sources):
                within = sorted(source.rglob("*")) if source.is_dir() else [source]
                yield from (path for path in within if path.is_file() and "__pycache__" not in path.parts)


_BASE_INPUTS: Final = (_SUITE, *_PACKAGES, platform.machine())


def watcher() -> Path:
    """The archive of the watcher's image, from the Dockerfile as it is."""
    arguments = {"PYTHON": PYTHON, "VERSION": _CHART["appVersion"], "REVISION": "tests"}
    return built(Recipe(WATCHER, (ROOT / "deploy/Dockerfile").read_text(), ROOT, arguments))


def pause() -> Path:
    """The archive of the image that holds a Pod's namespaces."""
    busybox = shutil.which("busybox", path=needs.path())
    assert busybox is not None, "needs.complaint() comes first"
    text = 'FROM scratch\nCOPY busybox /busybox\nENTRYPOINT ["/busybox", "sleep", "2147483647"]\n'
    return built(Recipe(PAUSE, text, Path(busybox).parent))


def built(recipe: Recipe) -> Path:
    """The archive of an image; it is built if nothing that goes into it was built before.

    PYTHON and `FROM scratch` are what it can build upon.

    Raises:
        BuildError: with the last lines of what failed.
    """
    archive = _folder() / "images" / f"{recipe.key()}.tar"
    archive.parent.mkdir(parents=True, exist_ok=True)
    with _locked(archive.with_suffix(".lock")):
        if not archive.exists():
            build.report(f"{recipe.name}: building the image; the first time takes minutes")
            _build(recipe, archive)
            _forget_old(archive.parent)
        archive.touch()
    return archive


def _forget_old(folder: Path) -> None:
    """Each change of the watcher makes an archive of 100 MB."""
    for path in folder.glob("*.tar"):
        if time.time() - path.stat().st_mtime > _KEPT_SECONDS:
            path.unlink(missing_ok=True)


def _build(recipe: Recipe, archive: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="dbtrun-image-") as folder:
        run = Path(folder)
        if "FROM scratch" not in recipe.dockerfile:
            _have_python(run)
        # Others may build an image of this name at the same time.
        tag = f"localhost/{archive.stem}"
        _buildah(run, recipe, tag)
        unfinished = archive.with_suffix(".unfinished")
        unfinished.unlink(missing_ok=True)
        _call(run, "buildah", "push", "--quiet", tag, f"oci-archive:{unfinished}:{recipe.name}")
        _call(run, "buildah", "rmi", tag)
        unfinished.replace(archive)


def _buildah(run: Path, recipe: Recipe, tag: str) -> None:
    dockerfile = run / "Dockerfile"
    dockerfile.write_text(recipe.dockerfile)
    arguments = [f"--build-arg={name}={value}" for name, value in recipe.arguments.items()]
    mounts = [f"--volume={source}:{target}:ro" for target, source in _for_pip(run).items()]
    alone = ["--isolation=chroot", "--network=host", "--pull-never", "--quiet"]
    _call(
        run, "buildah", "build", *alone, *arguments, *mounts, f"--tag={tag}", f"--file={dockerfile}",
        str(recipe.context),
    )  # fmt: skip


def _have_python(run: Path) -> None:
    """Put what stands for the Python image into the store."""
    with _locked(_folder() / "python.lock"):
        if _call(run, "buildah", "images", "--quiet", "--filter", f"reference={PYTHON}").strip():
            return
        build.report(f"{PYTHON}: made of Debian's packages")
        _call(run, "mmdebstrap", "--variant=minbase", f"--include={','.join(_PACKAGES)}", _SUITE, str(run / "base.tar"))
        text = 'FROM scratch\nADD base.tar /\nCMD ["python3"]\n'
        _buildah(run, Recipe(PYTHON, text, run), PYTHON)


def _for_pip(run: Path) -> dict[str, Path]:
    """The files that let pip in a build reach what pip out here reaches, by their place in the build."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    options = dict(re.findall(r"^(?:global|:env:)\.(\S+)='(.*)'$", listed, re.MULTILINE))
    config = run / "pip.conf"
    config.write_text("\n".join(["[global]", *(f"{name} = {value}" for name, value in options.items())]) + "\n")
    bundle = [options["cert"]] if "cert" in options else []
    return {"/etc/pip.conf": config} | {path: Path(path).resolve() for path in bundle}


def _call(run: Path, *argv: str) -> str:
    """Run a builder in mount and PID namespaces of its own: it leaves no mount and no process."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "VIRTUAL_ENV"))}
    env |= {"PATH": needs.path(), "TMPDIR": str(run), "XDG_RUNTIME_DIR": str(run)}
    if argv[0] == "buildah":
        argv = ("buildah", f"--root={_folder() / 'store'}", f"--runroot={run / 'run'}", *argv[1:])
    alone = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    answer = subprocess.run([*alone, *argv], env=env, capture_output=True, text=True, check=False)
    if answer.returncode:
        said = "\n".join((answer.stdout + answer.stderr).strip().splitlines()[-20:])
        raise BuildError(f"{' '.join(argv[:1] + argv[3:4])} ended with {answer.returncode}: {said}")
    return answer.stdout


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _folder() -> Path:
    return build.cache_folder().with_name("node")
