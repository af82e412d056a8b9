"""`dbtrun doctor`, cluster side: each mistake is named for what it is, and alone. Real API servers: tests/cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dbtrun.api import CONNECTION_SECRET_TYPE
from dbtrun.cli.doctor import assumptions
from dbtrun.cli.doctor.cluster_checks import connection_of, findings
from dbtrun.cli.doctor.cluster_facts import (
    LEASE_LOOKS,
    MAX_WATCHERS,
    VERBS,
    Absent,
    Asker,
    ClusterFacts,
    LeaseFacts,
    MirrorFacts,
    SecretFacts,
    Unknown,
    WatcherFacts,
    gather,
)
from dbtrun.cli.doctor.dbt_facts import ENDS, LOOKS
from dbtrun.cli.doctor.finding import Verdict, bad, good, unknown, warning
from dbtrun.cli.doctor.mirror_checks import selected_jobs
from dbtrun.kube.errors import NotFound
from tests.unit.cli.builders import ago, conditions, mirror

ROOT = Path(__file__).parents[3]
ENV = {"DBTRUN_LEASE_NAME": "dbtrun", "DBTRUN_CONNECTION_SECRET": "dbt-cloud"}
KEYS = {"token": b"dbtc_x", "account-id": b"1", "host": b"cloud.getdbt.com"}


def watcher(**more: Any) -> WatcherFacts:
    facts: dict[str, Any] = {
        "namespace": "data", "name": "dbtrun", "env": ENV, "ready": 1, "lease": LeaseFacts("dbtrun-0_1", renewed=True),
    }  # fmt: skip
    return WatcherFacts(**facts | more)


def secret(**more: Any) -> SecretFacts:
    facts = {"namespace": "data", "name": "dbt-cloud", "type": CONNECTION_SECRET_TYPE, "data": KEYS}
    return SecretFacts(**facts | more)


def facts(**more: Any) -> ClusterFacts:
    healthy: dict[str, Any] = {
        "namespace": "data", "namespace_phase": "Active", "missing_fields": frozenset(),
        "rights": dict.fromkeys(VERBS, True), "watchers": (watcher(),), "everywhere": True, "seen": 2,
        "secret": secret(), "readable_by_watcher": True, "stale_write": "refused",
    }  # fmt: skip
    return ClusterFacts(**healthy | more)


def keys(**changed: bytes | None) -> dict[str, bytes]:
    merged = KEYS | {name.replace("_", "-"): value for name, value in changed.items()}
    return {name: value for name, value in merged.items() if value is not None}


def test_a_healthy_cluster_is_healthy() -> None:
    assert {one.verdict for one in findings(facts())} == {Verdict.GOOD}


def shows(runs: int | None = 3, age: float = 172_800.0, spec: Any = None, **status: Any) -> MirrorFacts:
    """A mirror that works, unless told otherwise."""
    return MirrorFacts(mirror(spec=spec, **status), age, runs)


ELSEWHERE = {**ENV, "DBTRUN_NAMESPACES": "team-a,team-b"}
MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    ({"namespace_phase": Absent()}, "namespace", "There is no namespace data."),
    ({"namespace_phase": "Terminating"}, "namespace", "is being deleted"),
    ({"missing_fields": Absent()}, "crd", "no CRD dbtruns.dbtrun.dev: DbtRun is not installed"),
    ({"missing_fields": frozenset({"spec.artifacts"})}, "crd", "older than this program: it lacks spec.artifacts."),
    ({"rights": dict.fromkeys(VERBS, True) | {"create": False}}, "rights", "You may not create DbtRuns"),
    ({"rights": dict.fromkeys(VERBS, False)}, "rights", "You may not get, list, watch, create, patch, delete"),
    ({"watchers": (), "seen": 0}, "watcher", "No watcher is installed."),
    ({"watchers": (watcher(env=ELSEWHERE),)}, "watcher", "No watcher serves the namespace data"),
    ({"watchers": (watcher(lease=Absent()),)}, "watcher", "has never worked: it has no Lease"),
    ({"watchers": (watcher(lease=LeaseFacts("", renewed=False)),)}, "watcher", "nobody holds its Lease"),
    (
        {"watchers": (watcher(lease=LeaseFacts("dbtrun-0_1", renewed=False)),)},
        "watcher",
        "does not respond: dbtrun-0_1 has",
    ),
    ({"watchers": (watcher(), watcher(name="second"))}, "watcher", "data/dbtrun and Deployment data/second"),
    ({"unseen": ("nightly",)}, "status", "No watcher has seen these DbtRuns: nightly."),
    ({"watchers": (watcher(env={"DBTRUN_LEASE_NAME": "x"}),)}, "connection", "has no default connection"),
    (
        {"watchers": (watcher(namespace="system", env={**ENV, "DBTRUN_NAMESPACES": "*"}),)},
        "connection",
        "does not serve the namespace data",
    ),
    ({"mirrors": (shows(),), "mirrored_by_watcher": False}, "mirrors", "The watcher may not watch DbtRunMirrors."),
    ({"mirrors": (shows(conditions=[]),)}, "mirrors", "No watcher has seen the mirror nightly."),
    (
        {"mirrors": (shows(conditions=conditions(Ready=("False", "CreateRefused", "Refused: quota."))),)},
        "mirrors",
        "The mirror nightly does not work: Refused: quota (CreateRefused).",
    ),
    (
        {"mirrors": (shows(conditions=conditions(Reachable=("False", "Unauthorized", "The token is refused."))),)},
        "mirrors",
        "The mirror nightly does not work: The token is refused (Unauthorized).",
    ),
    ({"secret": Absent()}, "connection", "There is no Secret dbt-cloud in the namespace data."),
    ({"secret": Absent(), "wanted": "mine"}, "connection", "There is no Secret mine in the namespace data."),
    ({"secret": secret(type="Opaque")}, "connection", "of type Opaque, not dbtrun.dev/connection"),
    ({"secret": secret(data=keys(token=None))}, "connection", "key `token` is missing"),
    ({"secret": secret(data=keys(token=b" "))}, "connection", "key `token` is empty"),
    ({"secret": secret(data=keys(account_id=b"acme"))}, "connection", "key `account-id` is not the number"),
    (
        {"secret": secret(data=keys(host=b"dbt.example.com"))},
        "connection",
        "key `host` is not in the allowed domains: getdbt.com",
    ),
    ({"secret": secret(data=keys(host=b"http://127.0.0.1:8580"))}, "connection", "key `host` is this machine"),
    ({"secret": secret(data=keys() | {"ca.crt": b"none"})}, "connection", "key `ca.crt` holds no PEM"),
    ({"readable_by_watcher": False}, "connection rights", "may not read the Secret"),
    ({"dry_run": "exceeded quota: runs"}, "dry run", "would refuse a DbtRun: exceeded quota: runs."),
    ({"stale_write": "accepted"}, "stale writes", "accepts a write with an old version"),
]


@pytest.mark.parametrize(("change", "check", "words"), MISTAKES, ids=[f"{m[1]}: {m[2][:40]}" for m in MISTAKES])
def test_a_mistake_is_named_alone_with_the_way_out(change: dict[str, Any], check: str, words: str) -> None:
    wrong = [one for one in findings(facts(**change)) if one.verdict is Verdict.BAD]
    assert {one.check for one in wrong} == {check}
    (told,) = [one for one in wrong if words in one.message]
    assert told.remedy
    assert told.message.endswith(".")


BEHIND = conditions(CaughtUp=("False", "Behind", "Runs wait for their DbtRuns."))
LESSER: list[tuple[Any, Verdict, str]] = [
    ((shows(),), Verdict.GOOD, "1 mirror works and has caught up."),
    ((shows(), shows()), Verdict.GOOD, "2 mirrors work and have caught up."),
    ((shows(age=10.0, conditions=[]),), Verdict.GOOD, "1 mirror works"),
    (Absent(), Verdict.WARNING, "no CRD dbtrunmirrors.dbtrun.dev"),
    (Unknown("refused."), Verdict.UNKNOWN, "could not be read: refused."),
    ((shows(spec={"select": {"allJobs": True}, "suspend": True}),), Verdict.WARNING, "nightly is suspended"),
    ((shows(conditions=BEHIND, lagSeconds=90),), Verdict.WARNING, "is 1m30s behind: Runs wait for their DbtRuns ("),
    ((shows(runs=0),), Verdict.WARNING, "No run that finished in 2d has matched the mirror nightly (jobs 98765"),
    ((shows(runs=0, age=60.0),), Verdict.GOOD, "1 mirror works"),
    ((shows(runs=0, prunedThrough=ago(hours=1)),), Verdict.GOOD, "1 mirror works"),
    ((shows(runs=None),), Verdict.GOOD, "1 mirror works"),
]


@pytest.mark.parametrize(("mirrors", "verdict", "words"), LESSER, ids=[words for _, _, words in LESSER])
def test_what_is_said_of_mirrors(mirrors: Any, verdict: Verdict, words: str) -> None:
    (told,) = [one for one in findings(facts(mirrors=mirrors)) if one.check == "mirrors"]
    assert told.verdict is verdict
    assert words in told.message
    assert bool(told.remedy) is (verdict is Verdict.WARNING)


def test_many_mirrors_with_troubles_are_not_all_named() -> None:
    told = [one for one in findings(facts(mirrors=(shows(runs=0),) * 9)) if one.check == "mirrors"]
    assert len(told) == 6
    assert told[-1].message == "4 more mirrors have problems."


def test_the_jobs_of_mirrors_with_the_same_connection_are_looked_at() -> None:
    named = {"select": {"jobIds": [7]}, "connectionRef": {"name": "ours"}}
    seen = (shows(), shows(spec=named), shows(spec={"select": {"allJobs": True}}))
    assert selected_jobs(facts(mirrors=seen)) == [98765]
    assert selected_jobs(facts(mirrors=seen, wanted="ours")) == [7]
    assert selected_jobs(facts(mirrors=Absent())) == []


def test_no_value_of_a_secret_is_shown() -> None:
    planted = b"dbtc_planted value"
    for key in KEYS:
        told = str(list(findings(facts(secret=secret(data=keys(**{key.replace("-", "_"): planted}))))))
        assert "dbtc_planted" not in told


def test_what_may_not_be_read_is_not_known_and_not_wrong() -> None:
    blind = facts(
        watchers=(), everywhere=False, seen=0, secret=None, readable_by_watcher=None, stale_write=None,
        namespace_phase=Unknown("refused"), missing_fields=Unknown("refused"),
    )  # fmt: skip
    verdicts = {one.check: one.verdict for one in findings(blind)}
    assert Verdict.BAD not in verdicts.values()
    assert {check for check, verdict in verdicts.items() if verdict is Verdict.UNKNOWN} == {
        "crd", "watcher", "connection", "stale writes",
    }  # fmt: skip


def test_a_watcher_that_may_not_be_seen_is_known_by_what_it_writes() -> None:
    told = [one for one in findings(facts(watchers=(), everywhere=False)) if one.check == "watcher"]
    assert [one.verdict for one in told] == [Verdict.GOOD]


def test_a_lease_that_may_not_be_read_leaves_the_pods() -> None:
    def told(ready: int) -> list[Verdict]:
        seen = facts(watchers=(watcher(lease=Unknown("refused"), ready=ready),))
        return [one.verdict for one in findings(seen) if one.check == "watcher"]

    assert told(1) == [Verdict.GOOD]
    assert told(0) == [Verdict.UNKNOWN]


def test_the_settings_of_the_watcher_decide_which_hosts_are_allowed() -> None:
    local = secret(data=keys(host=b"http://127.0.0.1:8580"))
    lax = watcher(env={**ENV, "DBTRUN_LOOPBACK_CONNECTIONS": "true"})
    assert connection_of(facts(secret=local)) is None
    found = connection_of(facts(secret=local, watchers=(lax,)))
    assert found is not None
    assert found.host == "127.0.0.1:8580"
    assert connection_of(facts(secret=secret(type="Opaque"))) is None


# ---- the assumptions


def test_every_row_of_the_page_is_there() -> None:
    page = (ROOT / "docs/reliability.md").read_text()
    table = page.partition("## What is assumed")[2].partition("It is **not** assumed")[0]
    rows = [line[2:].partition(" | ")[0] for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == len(assumptions.ASSUMPTIONS)
    for row, assumption in zip(rows, assumptions.ASSUMPTIONS, strict=True):
        assert row.startswith(assumption.words)


@pytest.mark.parametrize(
    ("found", "verdict", "words"),
    [
        ([good("clock", "")], Verdict.GOOD, "holds"),
        ([warning("clock", "", "")], Verdict.WARNING, "holds, barely"),
        ([bad("clock", "", "")], Verdict.BAD, "does not hold"),
        ([unknown("clock", "It could not be compared.")], Verdict.UNKNOWN, "It could not be compared."),
        ([], Verdict.UNKNOWN, "not checked"),
    ],
)
def test_an_assumption_is_judged_by_its_checks(found: Any, verdict: Verdict, words: str) -> None:
    (clock,) = [one for one in assumptions.ASSUMPTIONS if one.checks == ("clock",)]
    told = assumptions.of(clock, found)
    assert told.verdict is verdict
    assert words in told.message


def test_what_is_about_a_machine_says_so() -> None:
    told = [assumptions.of(one, []) for one in assumptions.ASSUMPTIONS if not one.checks]
    assert len(told) == 2
    assert all("machine" in one.message for one in told)


def test_the_requests_are_bounded_whatever_is_found() -> None:
    """Version, CRD (2), namespace, rights, workloads (3), Leases, runs, Secret, review, dry runs (2); dbt Cloud."""
    leases = MAX_WATCHERS * (1 + len(LEASE_LOOKS))
    cluster = 1 + 2 + 1 + len(VERBS) + 3 + leases + 1 + 1 + 1 + 2
    dbt = 7 + 1 + len(LOOKS) + 1 + 1 + len(ENDS) + 1
    assert cluster + dbt <= 60


class OnlyWorkloads(Asker):
    """An API server that has Deployments of watchers and nothing else."""

    def __init__(self, namespaces: list[str]) -> None:
        self.requests = 0
        self._namespaces = namespaces

    async def json(self, method: str, path: str, **_: Any) -> dict[str, Any]:
        if path == "/version":
            return {}
        if path != "/apis/apps/v1/deployments":
            raise NotFound(f"{method} {path}")
        return {"items": [deployment(namespace) for namespace in self._namespaces]}


def deployment(namespace: str) -> dict[str, Any]:
    container = {"name": "watcher", "env": [{"name": "DBTRUN_LEASE_NAME", "value": "dbtrun"}]}
    metadata = {"uid": namespace, "namespace": namespace, "name": "dbtrun"}
    return {"metadata": metadata, "spec": {"template": {"spec": {"containers": [container]}}}}


async def test_the_watcher_of_the_namespace_is_found_among_many() -> None:
    gathered = await gather(OnlyWorkloads(["a", "b", "c", "d", "data"]), "data", None, None)
    assert [one.namespace for one in gathered.watchers] == ["data", "a", "b"]
    assert [type(one.lease) for one in gathered.watchers] == [Absent, Unknown, Unknown], "others' Leases are not read"
