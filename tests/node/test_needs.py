"""A machine that cannot have a node is told why, in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.node import needs


def test_this_machine_lacks_nothing() -> None:
    assert needs.complaint() is None
    program = [sys.executable, "-I", str(Path(needs.__file__))]
    assert subprocess.run(program, capture_output=True, text=True, check=True).stdout.split() == []


def test_missing_programs_are_named_by_their_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    present = tmp_path / "ip"
    present.write_text("#!/bin/sh\n")
    present.chmod(0o755)
    monkeypatch.setattr(needs, "path", lambda: str(tmp_path))
    monkeypatch.setattr(needs, "CNI_PLUGINS", (tmp_path / "cni",))
    everything = {*needs.COMMANDS.values(), "containernetworking-plugins"}
    assert set(needs.missing_packages()) == everything - {"iproute2"}
    install = "A node needs more programs: apt-get install --no-install-recommends buildah busybox-static "
    assert (needs.complaint() or "").startswith(install)


def test_another_system_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert (needs.complaint() or "").startswith("A node needs Linux, and this is darwin:")


def test_another_user_than_root_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert (needs.complaint() or "").startswith("A node needs root,")
