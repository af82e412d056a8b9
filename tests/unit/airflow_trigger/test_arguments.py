"""Every argument that may be a template, with every type that a template may render to."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, Connection, TaskDeferred
from hypothesis import given
from hypothesis import strategies as st

from airflow_trigger.artifacts import DbtRunArtifactOperator
from airflow_trigger.failures import DbtRunException, InvalidArgument
from airflow_trigger.listing import DbtRunListOperator
from airflow_trigger.operator import DbtRunOperator
from airflow_trigger.sensor import DbtRunSensor
from airflow_trigger.shared.access import resolve
from airflow_trigger.shared.arguments import boolean, mapping, number, real, seconds, shown, text, texts
from tests.unit.airflow_trigger.tasks import FakeTaskRuns, Task

VALUES: tuple[object, ...] = (2024, -3, 10**30, 5.5, float("inf"), True, None, "", "text-1", "2024", "Ü /")
NAMES = {"job_id": None, "project_name": "Shop", "environment_name": "Production", "job_name": "nightly"}
"""A job by its names, so that each of them counts."""


class Worker:
    """What an operator works with; `made` says whether anything was created."""

    def __init__(self, folder: Path) -> None:
        self.runs = FakeTaskRuns()
        self.folder = folder

    @asynccontextmanager
    async def connect(self, config: object, namespace: str = "") -> AsyncIterator[Any]:
        yield self.runs if namespace else self

    async def request(self, method: str, path: str, **_: Any) -> bytes:
        """An API server with a DbtRun of each name and its ConfigMap."""
        if "configmaps" in path:
            return json.dumps({"binaryData": {"k": b64encode(b"{}").decode()}}).encode()
        name = path.rpartition("/")[2]
        kept = [
            {"path": file, "configMap": "files", "key": "k"} for file in ("run_results.json", "text-1", "2024", "Ü /")
        ]
        run = {
            "metadata": {"name": name, "uid": "u", "resourceVersion": "1"},
            "spec": {"runId": 2024},
            "status": {"phase": "Succeeded", "runId": 2024, "artifacts": kept},
        }
        return json.dumps(run if name != "dbtruns" else {"items": [run], "metadata": {}}).encode()


CASES: dict[tuple[type, str], dict[str, Any]] = {
    **{(DbtRunOperator, argument): {"job_id": 7} for argument in DbtRunOperator.template_fields},
    **{(DbtRunOperator, argument): NAMES for argument in NAMES},
    **{(DbtRunOperator, argument): {"job_id": 7} for argument in ("deletion_policy", "config_file", "cluster_context")},
    **{(DbtRunSensor, argument): {"run_id": 5} for argument in DbtRunSensor.template_fields},
    **{(DbtRunSensor, argument): {"run_id": 5} for argument in ("config_file", "cluster_context")},
    **{(DbtRunListOperator, argument): {} for argument in DbtRunListOperator.template_fields},
    **{(DbtRunListOperator, argument): {} for argument in ("config_file", "cluster_context", "status_filter")},
    **{
        (DbtRunArtifactOperator, argument): {"path": "run_results.json", "name": "nightly"}
        for argument in DbtRunArtifactOperator.template_fields
    },
    (DbtRunArtifactOperator, "run_id"): {"path": "run_results.json"},
    (DbtRunArtifactOperator, "config_file"): {"path": "run_results.json", "name": "nightly"},
}


def executed(worker: Worker, kind: type, native: bool, arguments: dict[str, Any], value: object) -> None:
    """A whole first try, with `value` rendered from a parameter."""
    made: Any = type(kind.__name__, (kind,), {"connect": lambda self, *where: worker.connect(*where)})
    if kind in (DbtRunOperator, DbtRunSensor):
        arguments = {"deferrable": True} | arguments
    with DAG("d", schedule=None, render_template_as_native_obj=native):
        operator = made(**{"task_id": "t", "namespace": "team", **arguments})
    context = {**Task().context, "params": {"it": value}, "dag": operator.dag}
    operator.render_template_fields(context)
    with suppress(TaskDeferred):
        operator.execute(context)


def templated(kind: type, argument: str) -> bool:
    return argument in kind.template_fields  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("kind", "argument", "native"),
    [(*case, native) for case in CASES for native in (False, True) if templated(*case) or not native],
    ids=lambda part: getattr(part, "__name__", str(part)),
)
def test_every_argument_is_taken_or_refused_by_its_own_name_before_anything_is_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type, argument: str, native: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    for value in VALUES:
        worker = Worker(tmp_path)
        arguments = {**CASES[kind, argument], argument: "{{ params.it }}" if templated(kind, argument) else value}
        refused = outcome(lambda: executed(worker, kind, native, arguments, value))  # noqa: B023 - called at once
        if isinstance(refused, InvalidArgument):
            assert argument in str(refused), shown(value)
            assert not worker.runs.objects, shown(value)
            assert len(str(refused)) < 500, shown(value)
        elif refused is not None:
            # Only of what exists nowhere.
            assert (kind, argument) in ABSENT, (shown(value), refused)


def outcome(act: Callable[[], object]) -> DbtRunException | None:
    """How it was refused; None: it was not."""
    try:
        act()
    except DbtRunException as error:
        return error
    return None


ABSENT = {(DbtRunArtifactOperator, "path"), (DbtRunArtifactOperator, "run_id"), (DbtRunSensor, "name")}
TAKEN: dict[object, str | None] = {"text-1": "text-1", 2024: "2024", "2024": "2024", "": None, None: None}


@pytest.mark.parametrize("value", VALUES, ids=shown)
def test_text(value: object) -> None:
    if value in (5.5, float("inf")) or isinstance(value, bool):
        with pytest.raises(InvalidArgument, match=r"^git_sha must be text, not .*render_template_as_native_obj"):
            text("git_sha", value)
    else:
        assert text("git_sha", value) == TAKEN.get(value, str(value))


@pytest.mark.parametrize(
    ("value", "expected"), [("7", 7), (7, 7), (7.0, 7), (" 7 ", 7), (None, None), ("", None), (2**63 - 1, 2**63 - 1)]
)
def test_numbers(value: object, expected: int | None) -> None:
    assert number("job_id", value) == expected


@pytest.mark.parametrize(
    "value", [0, -1, "0", "-1", "1_0", "٣", "7.5", 7.5, True, 2**63, "9" * 5_000, [], b"7", "seven"]
)
def test_what_is_no_number(value: object) -> None:
    with pytest.raises(InvalidArgument, match=r"^job_id must be a number of at least 1, not ") as info:
        number("job_id", value)
    assert len(str(info.value)) < 200


@pytest.mark.parametrize(
    ("value", "expected"),
    [("true", True), ("False", False), ("on", True), ("0", False), (1, True), ("", False), (True, True), (None, None)],
)
def test_flags(value: object, expected: bool | None) -> None:
    assert boolean("in_cluster", value) is expected


@pytest.mark.parametrize("value", ["maybe", 2, 1.0, [], {}])
def test_what_is_no_flag(value: object) -> None:
    with pytest.raises(InvalidArgument, match=r"^in_cluster must be true or false, not "):
        boolean("in_cluster", value)


@given(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.lists(st.text()))
def test_nothing_else_is_ever_raised(value: object) -> None:
    takers: list[Callable[[], object]] = [
        lambda: text("a", value),
        lambda: number("a", value),
        lambda: boolean("a", value),
        lambda: real("a", value),
        lambda: seconds("a", value),
        lambda: texts("a", value, "things"),
        lambda: mapping("a", value),
    ]
    for take in takers:
        refused = outcome(take)
        assert refused is None or str(refused).startswith("a")


def test_a_list_names_the_item_that_is_wrong() -> None:
    assert texts("steps_override", ["dbt run", 5], "dbt commands") == ("dbt run", "5")
    with pytest.raises(InvalidArgument, match=r"steps_override\[1\] must be text, not None"):
        texts("steps_override", ["dbt run", None], "dbt commands")


def test_an_instant_may_be_text_and_never_negative() -> None:
    assert real("end_time", "1.5") == 1.5
    assert seconds("timeout", timedelta(minutes=1)) == 60.0
    with pytest.raises(InvalidArgument, match=r"^end_time must be a number that is not negative"):
        real("end_time", datetime(2026, 1, 1, tzinfo=UTC))


# ── connections ──

SPELLINGS = [("true", True), ("True", True), ("1", True), ("yes", True), ("false", None), ("False", None), ("0", None)]


@pytest.mark.parametrize("how", ["uri", "json"])
@pytest.mark.parametrize(("written", "meant"), SPELLINGS)
def test_a_connection_may_spell_its_flags_as_text(
    monkeypatch: pytest.MonkeyPatch, how: str, written: str, meant: bool | None
) -> None:
    uri = f"kubernetes://?in_cluster={written}&namespace=team"
    whole = {"conn_type": "kubernetes", "extra": {"in_cluster": written, "namespace": "team"}}
    defined = (
        Connection.from_uri(uri, conn_id="k") if how == "uri" else Connection.from_json(json.dumps(whole), conn_id="k")
    )
    monkeypatch.setattr("airflow_trigger.shared.access.BaseHook.get_connection", lambda conn_id: defined)
    found = resolve("k", namespace=None, in_cluster=None, config_file=None, cluster_context=None)
    assert (found.config.in_cluster, found.namespace) == (meant, "team")


def test_a_connection_whose_flag_means_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    defined = Connection.from_uri("kubernetes://?in_cluster=perhaps", conn_id="k")
    monkeypatch.setattr("airflow_trigger.shared.access.BaseHook.get_connection", lambda conn_id: defined)
    with pytest.raises(InvalidArgument, match="'k': in_cluster must be true or false, not 'perhaps'"):
        resolve("k", namespace=None, in_cluster=None, config_file=None, cluster_context=None)
