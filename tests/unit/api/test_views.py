"""The command line, the triggers and the tasks each read a part of a DbtRun: the API has every field of theirs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec
import pytest
from msgspec.inspect import type_info

from airflow_trigger.artifacts import KeepingRun
from airflow_trigger.shared.objects import Run as WaitedFor
from airflow_trigger.task.run import TaskRun
from dbtrun.api import DbtRun
from dbtrun.cli.view import Run as Shown

METADATA: Final = frozenset({"generation"})
"""Fields of every Kubernetes object that the watcher does not read."""


def structs_in(info: Any) -> Iterator[Any]:
    """The structs that a value of this type can be made of, at its top."""
    if isinstance(info, msgspec.inspect.StructType):
        yield info
    for inner in (*getattr(info, "types", ()), getattr(info, "item_type", None)):
        if inner is not None:
            yield from structs_in(inner)


def strange(view: Any, whole: Any, path: str = "") -> Iterator[str]:
    """The fields of the view that the whole does not have."""
    for part in structs_in(view):
        known = {field.encode_name: field.type for full in structs_in(whole) for field in full.fields}
        for field in part.fields:
            name = f"{path}.{field.encode_name}"
            if field.encode_name not in known:
                yield name
            else:
                yield from strange(field.type, known[field.encode_name], name)


@pytest.mark.parametrize("view", [Shown, WaitedFor, TaskRun, KeepingRun])
def test_a_view_reads_only_fields_that_a_dbt_run_has(view: type) -> None:
    found = {name for name in strange(type_info(view), type_info(DbtRun)) if name.split(".")[-1] not in METADATA}
    assert found == set()
