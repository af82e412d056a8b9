"""What is created for a run, and what a mirror says of itself."""

from __future__ import annotations

from dbtrun.api import Metadata
from dbtrun.api.mirrors import DbtRunMirror, MirrorCondition, MirrorSpec, MirrorStatus, Select, Template
from dbtrun.api.spec import ConnectionRef
from tests.unit.mirrors.runs import NOON, at, finished
from watcher.mirrors.objects import Told, dbt_run, stamped


def mirror(**spec: object) -> DbtRunMirror:
    metadata = Metadata(name="all", namespace="data", uid="u1", resource_version="1")
    return DbtRunMirror(metadata=metadata, spec=MirrorSpec(select=Select(all_jobs=True), **spec))  # type: ignore[arg-type]


def test_an_object_follows_its_run_and_belongs_to_its_mirror() -> None:
    body = dbt_run(mirror(), finished(7, cause_category="job completion"))
    assert body["metadata"]["name"] == "all-7"
    assert body["metadata"]["ownerReferences"] == [
        {"apiVersion": "dbtrun.dev/v1alpha1", "kind": "DbtRunMirror", "name": "all", "uid": "u1", "controller": True}
    ]
    assert body["metadata"]["labels"]["dbtrun.dev/cause"] == "job-completion"
    assert body["spec"] == {
        "runId": 7,
        "accountId": 1,
        "deletionPolicy": "Orphan",
        "ttlSecondsAfterFinished": 604_800,
    }


def test_an_object_has_what_the_template_says_and_the_mirrors_own_labels() -> None:
    labels = {"team": "finance", "dbtrun.dev/mirror": "another"}
    template = Template(labels=labels, artifacts=("manifest.json",), ttl_seconds_after_finished=None)
    body = dbt_run(
        mirror(template=template, connection_ref=ConnectionRef(name="prod")), finished(7, environment_id=None)
    )
    assert body["metadata"]["labels"] == {
        "team": "finance",
        "dbtrun.dev/mirror": "all",
        "dbtrun.dev/job-id": "10",
        "dbtrun.dev/cause": "ui",
    }
    assert body["spec"]["artifacts"] == ["manifest.json"]
    assert body["spec"]["connectionRef"] == {"name": "prod"}
    assert "ttlSecondsAfterFinished" not in body["spec"]


def test_a_condition_keeps_the_time_of_its_last_change() -> None:
    def told(status: bool, message: str) -> Told:
        return Told(MirrorCondition.READY, status, "Mirroring", message)

    before = MirrorStatus(conditions=stamped(MirrorStatus(), (told(True, "one"),), 1, NOON))
    (same,) = stamped(before, (told(True, "two"),), 2, at(60))
    assert (same.last_transition_time, same.message, same.observed_generation) == (NOON, "two", 2)
    (other,) = stamped(before, (told(False, "three"),), 2, at(60))
    assert other.last_transition_time == at(60)
