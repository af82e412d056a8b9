"""What the API server itself refuses and keeps: nobody needs a running watcher to learn that a DbtRun is wrong."""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.controlplane import Completed, ControlPlane

CRD: Final = Path(__file__).parents[2] / "deploy/crd/dbtrun.dev_dbtruns.yaml"

Fields = dict[str, Any]
JOB: Final[Fields] = {"job": {"id": 70403103900001}}

NOT_CHECKED: Final = (
    "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation"
)
"""What the API server adds where a wrong type keeps it from looking further."""

NO_PATH: Final = (
    "spec.artifacts[] must be a path below dbt's target directory, as run_results.json: letters, digits, '_', '-' and "
    "'.', with '/' between names and without '..'."
)

BROKEN_RULES: Final[list[tuple[Fields, str]]] = [
    ({}, "spec: Invalid value: spec needs exactly one of job (a run to start) and runId (a run to adopt)."),
    (
        JOB | {"runId": 5},
        "spec: Invalid value: spec needs exactly one of job (a run to start) and runId (a run to adopt).",
    ),
    (
        {"runId": 5, "overrides": {"threads": 4}},
        "spec: Invalid value: spec.overrides cannot be combined with spec.runId, which starts nothing: "
        "remove overrides, or name a job.",
    ),
    (
        {"runId": 5, "retry": {"limit": 1}},
        "spec: Invalid value: spec.retry cannot be combined with spec.runId, which starts nothing: "
        "remove retry, or name a job.",
    ),
    (
        {"runId": 5, "retryOf": 4},
        "spec: Invalid value: spec.retryOf cannot be combined with spec.runId, which starts nothing: "
        "remove one of them.",
    ),
    (
        {"runId": 5, "reuse": "Running"},
        "spec: Invalid value: spec.reuse cannot be combined with spec.runId, which starts nothing: "
        "remove reuse, or name a job.",
    ),
    ({"job": {}}, "spec.job: Invalid value: spec.job needs either id, or name, project and environment together."),
    (
        {"job": {"name": "nightly", "project": "sales"}},
        "spec.job: Invalid value: spec.job needs either id, or name, project and environment together.",
    ),
    (
        {"job": {"id": 1, "environment": "production"}},
        "spec.job: Invalid value: spec.job needs either id, or name, project and environment together.",
    ),
    (
        JOB | {"overrides": {"pullRequestId": {}}},
        "spec.overrides.pullRequestId: Invalid value: "
        "spec.overrides.pullRequestId needs exactly one of github, gitlab, azureDevOps and other.",
    ),
    (
        JOB | {"overrides": {"pullRequestId": {"github": 1, "other": 2}}},
        "spec.overrides.pullRequestId: Invalid value: "
        "spec.overrides.pullRequestId needs exactly one of github, gitlab, azureDevOps and other.",
    ),
    (
        JOB | {"connectionRef": {"name": "My_Account"}},
        'spec.connectionRef.name: Invalid value: "My_Account": spec.connectionRef.name must be the name of a Secret: '
        "lower-case letters, digits, '-' and '.' only.",
    ),
    (
        JOB | {"connectionRef": {"name": ""}},
        'spec.connectionRef.name: Invalid value: "": spec.connectionRef.name must be the name of a Secret: '
        "lower-case letters, digits, '-' and '.' only.",
    ),
    (
        JOB | {"cause": "as dbtrun:0/1"},
        "spec.cause: Invalid value: \"as dbtrun:0/1\": spec.cause must not contain 'dbtrun:', which marks the runs "
        "that the watcher starts: choose another text.",
    ),
    *(
        (JOB | {"artifacts": ["run_results.json", path]}, f'spec.artifacts[1]: Invalid value: "{path}": {NO_PATH}')
        for path in ("", "/etc/passwd", "../jobs", "compiled/../../jobs", "a..b", "a//b", "compiled/", "a b", "a?b=1")
    ),
]

BROKEN_BOUNDS: Final[list[tuple[Fields, str]]] = [
    (
        {"job": {"id": 0}},
        "spec.job.id: Invalid value: 0: spec.job.id in body should be greater than or equal to 1",
    ),
    (
        {"runId": -1},
        "spec.runId: Invalid value: -1: spec.runId in body should be greater than or equal to 1",
    ),
    (
        JOB | {"accountId": 0},
        "spec.accountId: Invalid value: 0: spec.accountId in body should be greater than or equal to 1",
    ),
    (
        {"job": {"name": "", "project": "p", "environment": "e"}},
        'spec.job.name: Invalid value: "": spec.job.name in body should be at least 1 chars long',
    ),
    (
        JOB | {"overrides": {"steps": []}},
        "spec.overrides.steps: Invalid value: 0: spec.overrides.steps in body should have at least 1 items",
    ),
    (
        JOB | {"overrides": {"threads": 0}},
        "spec.overrides.threads: Invalid value: 0: spec.overrides.threads in body should be greater than or equal to 1",
    ),
    (
        JOB | {"overrides": {"timeoutSeconds": -1}},
        "spec.overrides.timeoutSeconds: Invalid value: -1: "
        "spec.overrides.timeoutSeconds in body should be greater than or equal to 0",
    ),
    (
        JOB | {"retry": {"limit": 21}},
        "spec.retry.limit: Invalid value: 21: spec.retry.limit in body should be less than or equal to 20",
    ),
    (
        JOB | {"retry": {"backoffSeconds": -1}},
        "spec.retry.backoffSeconds: Invalid value: -1: "
        "spec.retry.backoffSeconds in body should be greater than or equal to 0",
    ),
    (
        JOB | {"retry": {"when": []}},
        "spec.retry.when: Invalid value: 0: spec.retry.when in body should have at least 1 items",
    ),
    (JOB | {"retry": {"when": ["Failed", "Failed"]}}, 'spec.retry.when[1]: Duplicate value: "Failed"'),
    (JOB | {"artifacts": ["a.json", "a.json"]}, 'spec.artifacts[1]: Duplicate value: "a.json"'),
    (
        JOB | {"queueDeadlineSeconds": 0},
        "spec.queueDeadlineSeconds: Invalid value: 0: "
        "spec.queueDeadlineSeconds in body should be greater than or equal to 1",
    ),
    (
        JOB | {"activeDeadlineSeconds": 0},
        "spec.activeDeadlineSeconds: Invalid value: 0: "
        "spec.activeDeadlineSeconds in body should be greater than or equal to 1",
    ),
    (
        JOB | {"pollIntervalSeconds": 4},
        "spec.pollIntervalSeconds: Invalid value: 4: "
        "spec.pollIntervalSeconds in body should be greater than or equal to 5",
    ),
    (
        JOB | {"pollIntervalSeconds": 3601},
        "spec.pollIntervalSeconds: Invalid value: 3601: "
        "spec.pollIntervalSeconds in body should be less than or equal to 3600",
    ),
    (
        JOB | {"ttlSecondsAfterFinished": -1},
        "spec.ttlSecondsAfterFinished: Invalid value: -1: "
        "spec.ttlSecondsAfterFinished in body should be greater than or equal to 0",
    ),
]

WRONG_TYPES: Final[list[tuple[Fields, str]]] = [
    (
        {"job": {"id": "12"}},
        'spec.job.id: Invalid value: "string": spec.job.id in body must be of type integer: "string"',
    ),
    (JOB | {"connectionRef": {}}, "spec.connectionRef.name: Required value"),
    (JOB | {"reuse": "Always"}, 'spec.reuse: Unsupported value: "Always": supported values: "Never", "Running"'),
    (
        JOB | {"retry": {"strategy": "Again"}},
        'spec.retry.strategy: Unsupported value: "Again": supported values: "FromFailure", "Fresh"',
    ),
    (
        JOB | {"retry": {"when": ["Error"]}},
        'spec.retry.when[0]: Unsupported value: "Error": supported values: "Failed", "Cancelled", "TimedOut"',
    ),
    (
        JOB | {"deletionPolicy": "Keep"},
        'spec.deletionPolicy: Unsupported value: "Keep": supported values: "Cancel", "Orphan"',
    ),
    (JOB | {"artifacts": [f"{n}.json" for n in range(11)]}, "spec.artifacts: Too many: 11: must have at most 10 items"),
    (JOB | {"cause": "c" * 201}, "spec.cause: Too long: may not be more than 200 bytes"),
    (
        JOB | {"overrides": {"steps": ["dbt run"] * 51}},
        "spec.overrides.steps: Too many: 51: must have at most 50 items",
    ),
]

DEFAULTS: Final[Fields] = {
    "reuse": "Never",
    "priority": 0,
    "connectionDeadlineSeconds": 600,
    "lostContactDeadlineSeconds": 21600,
    "pollIntervalSeconds": 30,
    "suspend": False,
    "cancel": False,
}
RETRY_DEFAULTS: Final[Fields] = {"limit": 0, "strategy": "FromFailure", "backoffSeconds": 30, "when": ["Failed"]}

FULL: Final[Fields] = {
    "connectionRef": {"name": "dbt-cloud.prod"},
    "job": {"name": "nightly", "project": "sales", "environment": "production"},
    "accountId": 70403103900009,
    "cause": "ü" * 200,
    "overrides": {
        "steps": ["dbt build --select tag:nightly"],
        "schema": "s",
        "gitBranch": "main",
        "gitSha": "f" * 40,
        "threads": 8,
        "target": "prod",
        "dbtVersion": "latest",
        "generateDocs": False,
        "timeoutSeconds": 0,
        "pullRequestId": {"azureDevOps": 12},
    },
    "reuse": "Running",
    "priority": 100,
    "retryOf": 70403104000001,
    "retry": {"limit": 20, "strategy": "Fresh", "backoffSeconds": 0, "when": ["Failed", "Cancelled", "TimedOut"]},
    "artifacts": ["run_results.json", "compiled/shop/models/a.sql"],
    "queueDeadlineSeconds": 1,
    "activeDeadlineSeconds": 1,
    "connectionDeadlineSeconds": 1,
    "lostContactDeadlineSeconds": 1,
    "pollIntervalSeconds": 5,
    "suspend": True,
    "cancel": True,
    "deletionPolicy": "Orphan",
    "ttlSecondsAfterFinished": 0,
}

VALID: Final[list[tuple[Fields, Fields]]] = [
    (JOB, JOB | DEFAULTS),
    ({"runId": 70403103900077}, {"runId": 70403103900077} | DEFAULTS),
    ({"runId": 1, "artifacts": ["manifest.json"]}, {"runId": 1, "artifacts": ["manifest.json"]} | DEFAULTS),
    (
        {"runId": 1, "deletionPolicy": "Cancel", "reuse": "Never"},
        {"runId": 1, "deletionPolicy": "Cancel"} | DEFAULTS,
    ),
    (JOB | {"retry": {"limit": 2}}, JOB | DEFAULTS | {"retry": RETRY_DEFAULTS | {"limit": 2}}),
    (JOB | {"overrides": {}, "cause": ""}, JOB | DEFAULTS | {"overrides": {}, "cause": ""}),
    (FULL, FULL),
]

IMMUTABLE: Final[list[tuple[Fields, str]]] = [
    ({"connectionRef": {"name": "other"}}, "connectionRef"),
    ({"connectionRef": None}, "connectionRef"),
    ({"job": {"name": "hourly"}}, "job"),
    ({"accountId": 1}, "accountId"),
    ({"accountId": None}, "accountId"),
    ({"cause": "other"}, "cause"),
    ({"cause": None}, "cause"),
    ({"overrides": {"threads": 9}}, "overrides"),
    ({"overrides": {"pullRequestId": None}}, "overrides"),
    ({"overrides": None}, "overrides"),
    ({"retryOf": 7}, "retryOf"),
    ({"reuse": "Never"}, "reuse"),
    ({"reuse": None}, "reuse"),
    ({"retry": {"limit": 3}}, "retry"),
    ({"retry": {"when": ["Failed"]}}, "retry"),
    ({"retry": None}, "retry"),
    ({"artifacts": ["manifest.json"]}, "artifacts"),
    ({"artifacts": None}, "artifacts"),
]

ADDED: Final[list[tuple[Fields, str]]] = [
    ({"connectionRef": {"name": "other"}}, "connectionRef"),
    ({"job": {"id": 2}}, "job"),
    ({"accountId": 1}, "accountId"),
    ({"cause": "other"}, "cause"),
    ({"overrides": {}}, "overrides"),
    ({"retry": {}}, "retry"),
    ({"artifacts": ["manifest.json"]}, "artifacts"),
]

MUTABLE: Final[list[Fields]] = [
    {"suspend": True},
    {"cancel": True},
    {"pollIntervalSeconds": 60},
    {"deletionPolicy": "Orphan"},
    {"ttlSecondsAfterFinished": 60},
    {"queueDeadlineSeconds": 60},
    {"activeDeadlineSeconds": 60},
    {"connectionDeadlineSeconds": 60},
    {"lostContactDeadlineSeconds": 60},
]


def dbtrun(name: str, spec: Fields) -> Fields:
    return {"apiVersion": "dbtrun.dev/v1alpha1", "kind": "DbtRun", "metadata": {"name": name}, "spec": spec}


class Api:
    """kubectl in one namespace."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        self._plane = plane
        self.namespace = namespace

    def kubectl(self, *args: str, text: str | None = None) -> Completed:
        return self._plane.kubectl_sync(f"--namespace={self.namespace}", *args, input=text, check=False)

    def create(self, *objects: Fields) -> Completed:
        return self.kubectl("create", "-f-", text="\n---\n".join(map(json.dumps, objects)))

    def created(self, spec: Fields) -> str:
        name = f"run-{secrets.token_hex(4)}"
        answer = self.create(dbtrun(name, spec))
        assert not answer.stderr
        return name

    def spec(self, name: str) -> Fields:
        stored: Fields = json.loads(self.kubectl("get", "dbtrun", name, "-ojson").stdout)
        found: Fields = stored["spec"]
        return found

    def patch(self, name: str, patch: Fields, *flags: str) -> Completed:
        return self.kubectl("patch", "dbtrun", name, "--type=merge", f"--patch={json.dumps(patch)}", *flags)


@pytest.fixture(scope="module")
def api(plane: ControlPlane) -> Iterator[Api]:
    name = f"api-validation-{secrets.token_hex(4)}"
    plane.kubectl_sync("apply", f"-f{CRD}")
    plane.kubectl_sync("wait", "--for=condition=Established", "crd/dbtruns.dbtrun.dev")
    plane.create_namespace_sync(name)
    yield Api(plane, name)
    plane.delete_namespace_sync(name)


@pytest.fixture(scope="module")
def refusals(api: Api) -> dict[str, str]:
    """What kubectl printed about each invalid object, by name. One call for all: starting kubectl is what costs."""
    cases = {"rule": BROKEN_RULES, "bound": BROKEN_BOUNDS, "type": WRONG_TYPES}
    invalid = [dbtrun(f"{kind}-{n}", spec) for kind, table in cases.items() for n, (spec, _) in enumerate(table)]
    return dict(re.findall(r'DbtRun.dbtrun.dev "(\S+?)" is invalid: (.*)', api.create(*invalid).stderr))


@pytest.fixture(scope="module")
def full(api: Api) -> str:
    return api.created(FULL | {"cancel": False})


@pytest.fixture(scope="module")
def minimal(api: Api) -> str:
    return api.created({"runId": 7})


@pytest.mark.parametrize("case", range(len(BROKEN_RULES)), ids=lambda n: json.dumps(BROKEN_RULES[n][0]))
def test_a_broken_rule_is_one_sentence_that_names_the_field(refusals: dict[str, str], case: int) -> None:
    assert refusals[f"rule-{case}"] == BROKEN_RULES[case][1]


@pytest.mark.parametrize("case", range(len(BROKEN_BOUNDS)), ids=lambda n: json.dumps(BROKEN_BOUNDS[n][0]))
def test_a_value_out_of_bounds_is_one_sentence_with_the_bound(refusals: dict[str, str], case: int) -> None:
    assert refusals[f"bound-{case}"] == BROKEN_BOUNDS[case][1]


@pytest.mark.parametrize("case", range(len(WRONG_TYPES)), ids=lambda n: json.dumps(WRONG_TYPES[n][0])[:60])
def test_a_wrong_type_is_told_first(refusals: dict[str, str], case: int) -> None:
    assert refusals[f"type-{case}"] == f"[{WRONG_TYPES[case][1]}, {NOT_CHECKED}]"


def test_an_unknown_field_is_named(api: Api) -> None:
    answer = api.create(dbtrun("typo", JOB | {"pollInterval": 30}))
    assert 'unknown field "spec.pollInterval"' in answer.stderr


def test_an_object_without_a_spec_is_refused(api: Api) -> None:
    answer = api.kubectl("create", "-f-", text=json.dumps({**dbtrun("nothing", {}), "spec": None}))
    assert "spec: Required value" in answer.stderr


@pytest.mark.parametrize(("spec", "stored"), VALID)
def test_what_was_applied_comes_back_with_nothing_but_defaults_added(api: Api, spec: Fields, stored: Fields) -> None:
    assert api.spec(api.created(spec)) == stored


@pytest.mark.parametrize(("change", "field"), IMMUTABLE)
def test_an_immutable_field_can_be_neither_changed_nor_removed(api: Api, full: str, change: Fields, field: str) -> None:
    answer = api.patch(full, {"spec": change})
    assert answer.stderr == (
        f'The DbtRun "{full}" is invalid: spec: Invalid value: spec.{field} cannot be changed: create a new DbtRun.\n'
    )


@pytest.mark.parametrize(("change", "field"), ADDED)
def test_an_immutable_field_cannot_be_added(api: Api, minimal: str, change: Fields, field: str) -> None:
    answer = api.patch(minimal, {"spec": change})
    assert f"spec.{field} cannot be changed: create a new DbtRun." in answer.stderr


@pytest.mark.parametrize(("change", "field"), [({"runId": 8}, "runId"), ({"runId": None}, "runId")])
def test_the_adopted_run_cannot_be_exchanged(api: Api, minimal: str, change: Fields, field: str) -> None:
    answer = api.patch(minimal, {"spec": change})
    assert f"spec.{field} cannot be changed: create a new DbtRun." in answer.stderr


@pytest.mark.parametrize("change", MUTABLE)
def test_the_rest_can_be_changed_while_the_run_goes_on(api: Api, change: Fields) -> None:
    name = api.created(JOB)
    answer = api.patch(name, {"spec": change})
    assert answer.stderr == ""
    assert api.spec(name) == JOB | DEFAULTS | change


@pytest.mark.parametrize("change", [{"cancel": False}, {"cancel": None}])
def test_a_cancel_cannot_be_taken_back(api: Api, change: Fields) -> None:
    name = api.created(JOB | {"cancel": True})
    answer = api.patch(name, {"spec": change})
    assert answer.stderr == (
        f'The DbtRun "{name}" is invalid: spec.cancel: Invalid value: false: '
        "spec.cancel cannot be undone: create a new DbtRun to run again.\n"
    )


def test_a_user_who_writes_a_status_does_not_forge_one(api: Api) -> None:
    api.create({**dbtrun("forged", JOB), "status": {"phase": "Succeeded"}})
    assert api.kubectl("get", "dbtrun", "forged", "-ojsonpath={.status}").stdout == '{"observedGeneration":-1}'


def test_a_status_with_an_unknown_phase_is_refused(api: Api, minimal: str) -> None:
    answer = api.patch(minimal, {"status": {"phase": "Done"}}, "--subresource=status")
    assert 'status.phase: Unsupported value: "Done"' in answer.stderr


@pytest.fixture(scope="module")
def running(api: Api) -> str:
    """A run with the status that a watcher would write."""
    name = api.created(JOB | {"connectionRef": {"name": "prod"}})
    status = {
        "phase": "Running",
        "reason": "RunStarted",
        "job": "nightly build",
        "jobId": 70403103900001,
        "runId": 70403103900077,
        "progress": "3/5",
        "attempts": [{"number": number, "phase": "Running"} for number in (1, 2)],
        "conditions": [
            {
                "type": "Reachable",
                "status": "False",
                "reason": "Unreachable",
                "message": "",
                "observedGeneration": 1,
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }
        ],
        "url": "https://cloud.getdbt.com/run/1",
    }
    assert not api.patch(name, {"status": status}, "--subresource=status").stderr
    return name


@pytest.mark.parametrize(
    "selector",
    [
        "status.phase=Running",
        "status.reason=RunStarted",
        "status.jobId=70403103900001",
        "status.runId=70403103900077",
        "spec.connectionRef.name=prod",
    ],
)
def test_runs_are_selected_by_field(api: Api, running: str, selector: str) -> None:
    found = api.kubectl("get", "dbtrun", f"--field-selector={selector}", "-oname")
    assert found.stdout == f"dbtrun.dbtrun.dev/{running}\n"


def test_kubectl_get_shows_where_a_run_stands(api: Api, running: str) -> None:
    header, row = api.kubectl("get", "dr", running).stdout.splitlines()
    assert header.split() == ["NAME", "PHASE", "REASON", "JOB", "PROGRESS", "AGE"]
    assert re.split(r"\s{2,}", row)[:-1] == [running, "Running", "RunStarted", "nightly build", "3/5"]
    assert max(len(header), len(row)) <= 80


def test_kubectl_get_wide_adds_run_attempt_reachability_and_url(api: Api, running: str) -> None:
    header, row = api.kubectl("get", "dr", running, "-owide").stdout.splitlines()
    added = ["RUN", "ATTEMPT", "REACHABLE", "URL"]
    assert header.split() == ["NAME", "PHASE", "REASON", "JOB", "PROGRESS", *added, "AGE"]
    assert row.split()[-5:-1] == ["70403103900077", "2", "False", "https://cloud.getdbt.com/run/1"]


def test_kubectl_explain_tells_what_a_field_means(api: Api) -> None:
    told = api.kubectl("explain", "dr.spec.pollIntervalSeconds").stdout
    assert "Maximum time in seconds between two reads of the run's state." in told
