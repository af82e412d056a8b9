"""The API is written twice, as types for the code and as a schema for the API server: here they are compared."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import yaml
from msgspec import inspect

from dbtrun import api
from dbtrun.api import Condition, Phase, Reason, Spec, Status, status
from watcher.lifecycle.keeping import key_of

ROOT = Path(__file__).parents[3]
CRD: dict[str, Any] = yaml.safe_load((ROOT / "deploy/crd/dbtrun.dev_dbtruns.yaml").read_text())
VERSION: dict[str, Any] = CRD["spec"]["versions"][0]
SCHEMA: dict[str, Any] = VERSION["schema"]["openAPIV3Schema"]

DBT_CLOUD_CAUSE_LIMIT = 255


class Shape(NamedTuple):
    """What both descriptions of one field must agree on."""

    type: str
    values: tuple[str, ...] = ()
    """Of an enum."""
    required: tuple[str, ...] = ()
    """Of an object: the fields that are never absent."""


def of_schema(schema: dict[str, Any], path: str) -> Iterator[tuple[str, Shape]]:
    """The shape of every field below a node of the CRD's schema, by path."""
    kind = "date-time" if schema.get("format") == "date-time" else str(schema["type"])
    yield path, Shape(kind, tuple(sorted(schema.get("enum", ()))), tuple(sorted(schema.get("required", ()))))
    for name, child in schema.get("properties", {}).items():
        yield from of_schema(child, f"{path}.{name}")
    for suffix, key in (("[]", "items"), ("{}", "additionalProperties")):
        if key in schema:
            yield from of_schema(schema[key], path + suffix)


def of_type(kind: inspect.Type, path: str) -> Iterator[tuple[str, Shape]]:
    """The shape of every field below a Python type, by path."""
    match kind:
        case inspect.UnionType(types=types):
            (kind,) = (each for each in types if not isinstance(each, inspect.NoneType))
            yield from of_type(kind, path)
        case inspect.StructType(fields=fields):
            required = sorted(field.encode_name for field in fields if field.required)
            yield path, Shape("object", required=tuple(required))
            for field in fields:
                yield from of_type(field.type, f"{path}.{field.encode_name}")
        case inspect.VarTupleType(item_type=item):
            yield path, Shape("array")
            yield from of_type(item, path + "[]")
        case inspect.DictType(value_type=value):
            yield path, Shape("object")
            yield from of_type(value, path + "{}")
        case _:
            yield path, Shape(*scalar(kind))


def scalar(kind: inspect.Type) -> tuple[str, tuple[str, ...]]:
    match kind:
        case inspect.EnumType(cls=cls) if cls is Reason:
            return "string", ()  # a closed list for the code, open in the schema: new reasons need no new CRD
        case inspect.EnumType(cls=cls):
            return "string", tuple(sorted(member.value for member in cls))
        case inspect.IntType():
            return "integer", ()
        case inspect.BoolType():
            return "boolean", ()
        case inspect.StrType():
            return "string", ()
        case inspect.DateTimeType():
            return "date-time", ()
    raise AssertionError(f"no OpenAPI type is known for {kind}")


def nodes(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    for suffix, key in (("[]", "items"), ("{}", "additionalProperties")):
        if key in schema:
            yield from nodes(schema[key], path + suffix)


def defaults(kind: inspect.Type, path: str) -> Iterator[tuple[str, Any]]:
    """The default of every field below a type but None and empty ones, which are absent in the API server too."""
    if isinstance(kind, inspect.UnionType):
        (kind,) = (each for each in kind.types if not isinstance(each, inspect.NoneType))
    if not isinstance(kind, inspect.StructType):
        return
    for field in kind.fields:
        value = field.default
        if value not in (None, msgspec.NODEFAULT, ()) and not isinstance(value, msgspec.Struct):
            yield f"{path}.{field.encode_name}", list(value) if isinstance(value, tuple) else value
        yield from defaults(field.type, f"{path}.{field.encode_name}")


FIELDS = dict(nodes(SCHEMA["properties"]["spec"], "spec")) | dict(nodes(SCHEMA["properties"]["status"], "status"))


@pytest.mark.parametrize(("root", "kind"), [("spec", Spec), ("status", Status)])
def test_types_and_crd_have_the_same_fields_of_the_same_types(root: str, kind: type[msgspec.Struct]) -> None:
    assert dict(of_schema(SCHEMA["properties"][root], root)) == dict(of_type(inspect.type_info(kind), root))


def test_spec_defaults_are_those_of_the_types() -> None:
    in_crd = {path: node["default"] for path, node in FIELDS.items() if "default" in node and path.startswith("spec")}
    assert in_crd == dict(defaults(inspect.type_info(Spec), "spec"))


def test_only_the_generation_of_a_status_has_a_default_for_what_is_stored_was_written() -> None:
    in_crd = {path: node["default"] for path, node in FIELDS.items() if "default" in node and path.startswith("status")}
    default = Status().observed_generation
    assert in_crd == {"status": {"observedGeneration": default}, "status.observedGeneration": default}


def test_the_crd_carries_the_names_of_the_code() -> None:
    names = CRD["spec"]["names"]
    assert CRD["metadata"]["name"] == f"{api.PLURAL}.{api.GROUP}"
    assert (CRD["spec"]["group"], VERSION["name"], names["kind"], names["plural"]) == (
        api.GROUP,
        api.VERSION,
        api.KIND,
        api.PLURAL,
    )


@pytest.mark.parametrize(
    ("path", "bound", "value"),
    [
        ("status.message", "maxLength", status.MAX_MESSAGE),
        ("status.attempts[].message", "maxLength", status.MAX_MESSAGE),
        ("status.conditions[].message", "maxLength", status.MAX_MESSAGE),
        ("status.steps", "maxItems", status.MAX_STEPS),
        ("status.steps[].name", "maxLength", status.MAX_STEP_NAME),
        ("status.failedStep.logTail", "maxLength", status.MAX_LOG_TAIL),
        ("status.results.unreadSteps", "maxItems", status.MAX_UNREAD_STEPS),
        ("status.results.failures", "maxItems", status.MAX_FAILURES),
        ("status.results.failures[].message", "maxLength", status.MAX_FAILURE_MESSAGE),
        ("status.artifacts[].problem", "maxLength", status.MAX_PROBLEM),
    ],
)
def test_the_bounds_that_the_code_keeps_are_those_of_the_crd(path: str, bound: str, value: int) -> None:
    assert FIELDS[path][bound] == value


def test_every_list_is_bounded() -> None:
    assert [path for path, node in FIELDS.items() if node["type"] == "array" and "maxItems" not in node] == []


def test_every_text_that_a_user_writes_is_bounded() -> None:
    free = (node for path, node in FIELDS.items() if path.startswith("spec") and node["type"] == "string")
    assert [node for node in free if "enum" not in node and "maxLength" not in node] == []


def test_there_is_room_for_every_attempt() -> None:
    assert FIELDS["status.attempts"]["maxItems"] == FIELDS["spec.retry.limit"]["maximum"] + 1


def test_there_is_room_for_every_artifact_and_its_key() -> None:
    wanted, told = FIELDS["spec.artifacts"], FIELDS["status.artifacts"]
    assert told["maxItems"] == wanted["maxItems"]
    assert FIELDS["status.artifacts[].path"]["maxLength"] == FIELDS["spec.artifacts[]"]["maxLength"]
    longest = key_of("a/" * 40 + "b" * (FIELDS["spec.artifacts[]"]["maxLength"] - 80))
    assert len(longest) <= FIELDS["status.artifacts[].key"]["maxLength"]


def test_there_is_room_for_the_marker_after_the_longest_cause() -> None:
    uid, attempt, separator = 36, len("/21"), len(" []")
    marker = len(api.MARKER_PREFIX) + uid + attempt + separator
    assert FIELDS["spec.cause"]["maxLength"] + marker <= DBT_CLOUD_CAUSE_LIMIT


def test_no_cause_can_forge_a_marker() -> None:
    rules = [rule["rule"] for rule in FIELDS["spec.cause"]["x-kubernetes-validations"]]
    assert f"!self.contains('{api.MARKER_PREFIX}')" in rules


def test_every_reason_is_accepted_wherever_a_reason_is_written() -> None:
    places = [node for path, node in FIELDS.items() if path.startswith("status") and path.endswith("reason")]
    assert len(places) == 3
    for place in places:
        assert all(re.search(place["pattern"], reason) and len(reason) <= place["maxLength"] for reason in Reason)


def test_every_field_is_described_in_sentences() -> None:
    assert [path for path, node in FIELDS.items() if not node.get("description", "").endswith(".")] == []


def test_every_duration_says_its_unit() -> None:
    durations = {path: node for path, node in FIELDS.items() if "Seconds" in path}
    assert durations
    assert [path for path, node in durations.items() if "seconds" not in node["description"].lower()] == []


def test_every_duration_is_bounded_so_that_no_instant_overflows() -> None:
    assert [path for path, node in FIELDS.items() if "Seconds" in path and "maximum" not in node] == []


def test_every_rule_says_which_field_it_means() -> None:
    for path, node in FIELDS.items():
        for rule in node.get("x-kubernetes-validations", ()):
            assert rule["message"].startswith(path), rule
            assert rule["message"].endswith("."), rule


def test_every_phase_has_a_meaning() -> None:
    assert set(api.PHASE_MEANINGS) == set(Phase)
    assert all(meaning.endswith(".") for meaning in api.PHASE_MEANINGS.values())


def test_every_reason_has_a_meaning_and_a_remedy() -> None:
    assert set(api.REASON_DOCS) == set(Reason)
    assert all(doc.meaning.endswith(".") and doc.remedy.endswith(".") for doc in api.REASON_DOCS.values())


def test_columns_and_selectors_point_at_fields_that_exist() -> None:
    shown = [column["jsonPath"] for column in VERSION["additionalPrinterColumns"] + VERSION["selectableFields"]]
    paths = [re.sub(r"\[.+?\]", "[]", path.lstrip(".")) for path in shown if path != ".metadata.creationTimestamp"]
    assert [path for path in paths if path not in FIELDS] == []


def test_a_condition_has_all_that_metav1_condition_has() -> None:
    assert set(FIELDS["status.conditions[]"]["required"]) == {
        field.encode_name for field in msgspec.structs.fields(Condition)
    }
