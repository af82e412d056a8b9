"""The limit of memory that a program gets holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.stack import memory

GREEDY = "import sys; held = b'x' * (int(sys.argv[1]) << 20); print(len(held))"


def ends_well(before: list[str], mebibytes: int) -> bool:
    argv = [*before, sys.executable, "-c", GREEDY, str(mebibytes)]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("cgroups", [True, False])
def test_a_program_cannot_hold_more_than_its_limit(cgroups: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not cgroups:
        monkeypatch.setattr(memory, "CGROUPS", Path("/proc"))
    with memory.limited(128) as before:
        assert ends_well(before, 50)
        assert not ends_well(before, 200)
