"""Which objects the words of a command name: `get`, `get mirrors`, `describe drm/nightly`. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import click

from dbtrun.api import GROUP

MIRRORS: Final = frozenset({"drm", "mirror", "mirrors", "dbtrunmirror", "dbtrunmirrors"})
"""What DbtRunMirrors are called."""


class Asked(NamedTuple):
    """Names of DbtRuns, or of DbtRunMirrors."""

    mirrors: bool
    names: tuple[str, ...]


def bare(name: str) -> str:
    """The name of `nightly`, `dr/nightly` or `dbtrun.dbtrun.dev/nightly`, as kubectl prints it."""
    return name.rpartition("/")[2]


def about_mirrors(word: str) -> bool:
    """Whether the word means DbtRunMirrors: `mirrors`, `drm`, `dbtrunmirrors.dbtrun.dev`."""
    return word.removesuffix(f".{GROUP}") in MIRRORS


def asked(words: Sequence[str]) -> Asked:
    """What is asked for. A DbtRun that is called `mirrors` has to be named as `dr/mirrors`.

    Raises:
        click.UsageError: both kinds are.
    """
    if words and about_mirrors(words[0]):
        return Asked(True, tuple(map(bare, words[1:])))
    kinds = {about_mirrors(word.rpartition("/")[0]) for word in words}
    if len(kinds) > 1:
        raise click.UsageError("Name DbtRuns or mirrors, not both.")
    return Asked(kinds == {True}, tuple(map(bare, words)))
