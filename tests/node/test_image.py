"""What is in the watcher's image, and what is not."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from tests.node import images
from tests.node.archive import Image

MOST_PACKED = 30_000_000
"""Bytes, of all layers but the base's."""
INSTALLERS = re.compile(r"/(pip|setuptools|wheel|pkg_resources|ensurepip|_distutils_hack)(-[^/]*)?(/|$)|\.whl$")
UNCHECKED_HASH = 1


def ours(image: Image) -> dict[str, int]:
    """The modes of our files and folders."""
    return {path: file.mode for path, file in image.files.items() if path.startswith("/opt/dbtrun")}


def test_nothing_in_it_installs_packages(image: Image) -> None:
    assert [path for path in image.files if INSTALLERS.search(path)] == []


def test_it_says_what_it_is(image: Image) -> None:
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in image.config["Labels"].items()}
    version = images.WATCHER.rpartition(":")[2]
    assert (labels["version"], labels["revision"], labels["licenses"]) == (version, "tests", "Apache-2.0")
    assert labels["title"]
    assert labels["description"]


def test_it_runs_the_watcher_as_no_special_user(image: Image) -> None:
    assert image.config["User"] == "65532:65532"
    assert image.config["Entrypoint"] + image.config["Cmd"] == ["dbtrun", "watcher"]
    assert [path for path, mode in ours(image).items() if mode & 0o004 == 0] == []
    assert [path for path, mode in ours(image).items() if image.files[path].folder and mode & 0o001 == 0] == []


def test_every_module_has_bytecode_that_no_time_stamp_invalidates(image: Image) -> None:
    bytecode = {path: file for path, file in image.files.items() if path.startswith("/opt") and path.endswith(".pyc")}
    compiled = {str(PurePosixPath(path).parent.parent / PurePosixPath(path).name.split(".")[0]) for path in bytecode}
    modules = {path.removesuffix(".py") for path in ours(image) if path.endswith(".py")}
    assert modules == compiled
    assert {file.start[4] for file in bytecode.values()} == {UNCHECKED_HASH}


def test_it_is_small_beside_its_base(image: Image) -> None:
    added = sum(image.packed[1:])
    print(f"the image adds {added / 1e6:.1f} MB to its base, packed")
    assert added <= MOST_PACKED
