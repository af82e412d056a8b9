"""The builder, with a Go that only pretends: when Go works, fails, is missing, or is asked twice at once."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.controlplane import BuildError, build, kubectl_path

FAKE_GO = """#!/bin/sh
if [ "$1" = env ]; then echo go1.99.1; exit; fi
echo "$@" >> "$CALLS"
if [ -n "$BROKEN" ]; then echo 'first line'; echo "$BROKEN"; exit 1; fi
while [ "$1" != -o ]; do shift; done
echo '#!/bin/sh' > "$2"
chmod +x "$2"
"""


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the pretended Go first on PATH and an empty cache in place; return the file that lists its compilations."""
    go = tmp_path / "bin" / "go"
    go.parent.mkdir()
    go.write_text(FAKE_GO)
    go.chmod(0o755)
    calls = tmp_path / "calls"
    calls.touch()
    monkeypatch.setenv("PATH", f"{go.parent}:/usr/bin:/bin")
    monkeypatch.setenv("CALLS", str(calls))
    monkeypatch.setenv("DBTRUN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    return calls


def compilations(calls: Path) -> list[str]:
    return calls.read_text().splitlines()


def test_a_binary_is_built_once_and_then_found(calls: Path) -> None:
    first = build.ensure("etcd")
    assert build.ensure("etcd") == first
    assert len(compilations(calls)) == 1


def test_builders_at_the_same_time_compile_once(calls: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        paths = {result["etcd"] for result in pool.map(lambda _: build.ensure("etcd"), range(4))}
    assert len(paths) == 1
    assert len(compilations(calls)) == 1


def test_the_server_is_told_its_version(calls: Path) -> None:
    build.ensure("kube-apiserver")
    assert "version.gitVersion=v1.37." in compilations(calls)[0]
    assert "version.gitMinor=37" in compilations(calls)[0]


def test_etcd_and_the_tool_that_restores_it_are_of_one_release() -> None:
    tool, server = build.TOOLS["etcdutl"], build.TOOLS["etcd"]
    assert tool.version() == server.version()


def test_a_failed_compilation_shows_its_last_line_and_leaves_no_binary(
    calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BROKEN", "dial tcp: no such host")
    with pytest.raises(BuildError, match=r"Go could not build etcd: dial tcp: no such host \(all of it is in .*\)"):
        build.ensure("etcd")
    monkeypatch.delenv("BROKEN")
    assert build.ensure("etcd")["etcd"].exists()


def test_a_disk_that_fills_up_is_named(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKEN", "write /tmp/x: no space left on device")
    with pytest.raises(BuildError, match="The disk is full"):
        build.ensure("etcd")


def test_a_disk_without_room_is_named_before_minutes_are_spent(calls: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "FREE_BYTES_FOR_A_BUILD", 10**18)
    with pytest.raises(BuildError, match="DBTRUN_CACHE"):
        build.ensure("etcd")
    assert compilations(calls) == []


def test_a_cache_that_cannot_be_written_is_named(calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBTRUN_CACHE", str(calls))
    with pytest.raises(BuildError, match="cannot be used"):
        build.ensure("etcd")


def test_a_machine_without_go_and_without_an_index_says_what_to_install(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    for name, value in {"NO_INDEX": "1", "CONFIG_FILE": "/dev/null", "FIND_LINKS": str(tmp_path)}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    with pytest.raises(BuildError, match=r"Go is needed: put Go 1\.26 or newer on PATH"):
        build.ensure("etcd")


def test_binaries_that_the_machine_brings_come_first(
    calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brought = tmp_path / "assets" / "etcd"
    brought.parent.mkdir()
    brought.write_text("#!/bin/sh\n")
    brought.chmod(0o755)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(brought.parent))
    assert build.ensure("etcd", "kube-controller-manager")["etcd"] == brought
    assert [call.split()[-1] for call in compilations(calls)] == ["k8s.io/kubernetes/cmd/kube-controller-manager"]


def test_kubectl_comes_with_the_environment() -> None:
    answer = subprocess.run([kubectl_path(), "version", "--client"], capture_output=True, text=True, check=True)
    assert "Client Version: v1.37" in answer.stdout
    assert kubectl_path().is_relative_to(Path(sys.prefix).resolve())
