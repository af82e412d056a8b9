"""`dbtrun doctor --from-pod`: what is asked of the pod, and what its words are taken for. A real pod: tests/node."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dbtrun.cli.doctor.dbt_facts import MAX_SELECTED
from dbtrun.cli.doctor.examination import as_watcher, trusted
from dbtrun.cli.doctor.finding import Told, Verdict
from dbtrun.cli.doctor.memory import MIB, NEEDED, TooLittle, keep_within, room
from dbtrun.cli.doctor.pod import acting, argv, understood
from dbtrun.kube.execute import Executed, Place
from tests.unit.cli.test_doctor_cluster import facts, shows, watcher

PLACE = Place("data", "dbtrun-7d4-x2p", "watcher")


def test_the_watcher_that_acts_is_asked() -> None:
    from dbtrun.cli.doctor.cluster_facts import Absent, LeaseFacts, Unknown

    held = LeaseFacts("dbtrun-7d4-x2p_0a1b2c3d", renewed=True)
    assert acting(facts(watchers=(watcher(lease=held),))) == PLACE
    beside = watcher(lease=held, container="dbtrun-watcher")
    assert acting(facts(watchers=(beside,))) == PLACE._replace(container="dbtrun-watcher")
    for lease in (Absent(), Unknown("no"), LeaseFacts("", renewed=False)):
        assert acting(facts(watchers=(watcher(lease=lease),))) is None
    assert acting(facts(watchers=())) is None


def test_a_run_is_started_only_on_request() -> None:
    assert argv(facts(), None, start=False) == ("dbtrun", "check")
    assert argv(facts(), 7, start=False) == ("dbtrun", "check", "--job", "7")
    assert argv(facts(), 7, start=True) == ("dbtrun", "check", "--start", "7")
    named = argv(facts(wanted="mine"), None, start=False)
    assert named == ("dbtrun", "check", "--namespace", "data", "--connection", "mine")


def test_the_jobs_of_mirrors_are_looked_at_and_no_more_than_the_check_takes() -> None:
    selects = {"select": {"jobIds": [5, 6]}}
    told = argv(facts(mirrors=(shows(spec=selects), shows(spec=selects))), 7, start=False)
    assert told == ("dbtrun", "check", "--job", "7", "--mirrored", "5", "--mirrored", "6")
    many = {"select": {"jobIds": list(range(1, 501))}}
    assert argv(facts(mirrors=(shows(spec=many),)), None, start=False).count("--mirrored") == MAX_SELECTED


def words(message: str, verdict: str = "good") -> bytes:
    finding = {"check": "account", "verdict": verdict, "message": message, "remedy": ""}
    return json.dumps({"findings": [finding], "requests": 7, "from a later release": True}).encode()


def only(told: Told) -> tuple[str, Verdict, str]:
    (finding,) = told.findings
    return finding.check, finding.verdict, finding.message


def test_the_findings_of_the_pod_are_ours() -> None:
    told = understood(PLACE, Executed(0, words("The token is refused.", "bad"), ""))
    assert only(told) == ("account", Verdict.BAD, "The token is refused.")
    assert told.requests == 7


def test_a_terminal_obeys_nothing_that_the_pod_says() -> None:
    told = understood(PLACE, Executed(0, words("a\x1b]0;owned\x07\nb" + "x" * 1000), ""))
    (_, _, message) = only(told)
    assert message.startswith("a b")
    assert len(message) == 500
    told = understood(PLACE, Executed(1, b"", "\x1b[2Jgone\n"))
    assert "ended with code 1: gone." in only(told)[2]


@pytest.mark.parametrize("out", [b"", b"[]", b"<html>", b"{}", b"[" * 5000, words("x", "splendid"), b"\xff"])
def test_what_is_no_document_is_no_success(out: bytes) -> None:
    check, verdict, message = only(understood(PLACE, Executed(0, out, "")))
    assert (check, verdict) == ("pod", Verdict.BAD)
    assert "printed something other than its findings" in message


def test_an_older_watcher_is_told_from_one_that_fails() -> None:
    (older,) = understood(PLACE, Executed(2, b"", "Error: No such command 'check'.")).findings
    assert older.remedy.startswith("Upgrade the watcher")
    assert "No such command 'check'" in older.message
    (other,) = understood(PLACE, Executed(137, b"", "")).findings
    assert other.remedy == "See the pod: kubectl -n data describe pod dbtrun-7d4-x2p"


# ---- in the pod


def test_the_watchers_kubeconfig_is_used_where_it_has_one() -> None:
    assert as_watcher({"DBTRUN_KUBECONFIG": "/a", "DBTRUN_CONTEXT": "b"}).kubeconfig == "/a"
    assert as_watcher({"DBTRUN_KUBECONFIG": ""}).kubeconfig is None


def test_the_certificates_are_those_of_the_watcher(tmp_path: Path) -> None:
    """As httpx chooses them, with which the watcher asks dbt Cloud."""
    import httpx
    import trustme

    file = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(file))
    own = trusted({"SSL_CERT_FILE": str(file)}).get_ca_certs()
    assert len(own) == 1
    usual = trusted({}).get_ca_certs()
    assert usual == httpx.create_ssl_context(trust_env=False).get_ca_certs()
    assert usual != own


def version_2(folder: Path, limit: str, used: int, cached: int = 0) -> Path:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cached}\n")
    return folder


def version_1(folder: Path, limit: int, used: int, cached: int) -> Path:
    (folder / "memory").mkdir()
    (folder / "memory/memory.limit_in_bytes").write_text(str(limit))
    (folder / "memory/memory.usage_in_bytes").write_text(str(used))
    (folder / "memory/memory.stat").write_text(f"inactive_file 1\ntotal_inactive_file {cached}\n")
    return folder


def test_the_memory_that_is_left_is_known(tmp_path: Path) -> None:
    for name in ("2", "2-unlimited", "1", "none"):
        (tmp_path / name).mkdir()
    assert room(version_2(tmp_path / "2", str(512 * MIB), 300 * MIB, 100 * MIB)) == 312 * MIB
    assert room(version_2(tmp_path / "2-unlimited", "max", 300 * MIB)) is None
    assert room(version_1(tmp_path / "1", 512 * MIB, 300 * MIB, 100 * MIB)) == 312 * MIB
    assert room(tmp_path / "none") is None


def test_a_check_does_not_begin_where_the_watcher_needs_the_memory(tmp_path: Path) -> None:
    full = version_2(tmp_path, str(512 * MIB), 512 * MIB - NEEDED + 1)
    with pytest.raises(TooLittle, match="127 MiB of memory left, and a check needs 128 MiB"):
        keep_within(512 * MIB, full)


def limited(allowed: int, then: str) -> subprocess.CompletedProcess[str]:
    script = f"from dbtrun.cli.doctor.memory import keep_within; keep_within({allowed}); {then}"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


def test_a_check_cannot_take_more_memory_than_it_may() -> None:
    assert limited(200 * MIB, "x = bytearray(100 << 20)").returncode == 0
    assert "MemoryError" in limited(200 * MIB, "x = bytearray(210 << 20)").stderr


def test_a_check_that_has_too_little_memory_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = (
        "from dbtrun.cli.doctor import memory; memory.ALLOWED = 20 << 20; "
        "from dbtrun.cli.main import main; main(['check'])"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    (finding,) = json.loads(ended.stdout)["findings"]
    assert finding["check"] == "memory"
    assert finding["message"] == "The check needs more than the 20 MiB that it may use."


def check(*arguments: str, **environ: str) -> tuple[int, Mapping[str, Any], str]:
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[3])} | environ
    argv = [sys.executable, "-m", "dbtrun", "check", *arguments]
    ended = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    return ended.returncode, json.loads(ended.stdout or "{}"), ended.stderr


def test_outside_of_a_cluster_the_check_is_still_a_document(tmp_path: Path) -> None:
    code, document, _ = check(HOME=str(tmp_path), DBTRUN_CONNECTION_SECRET="dbt-cloud")
    assert code == 0
    (finding,) = document["findings"]
    assert finding["message"].startswith("The watcher cannot read the Secret default/dbt-cloud: Cannot reach a cluster")


def test_a_secret_without_a_namespace_is_wrong_usage(tmp_path: Path) -> None:
    code, _, said = check("--connection", "mine", HOME=str(tmp_path))
    assert code == 2
    assert "--connection and --namespace go together." in said
