"""What a schema of the API server lacks of the types here: a CRD of another release has other fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from msgspec import inspect

from dbtrun.api.objects import DbtRun

PARTS = ("spec", "status")


def lacking(schema: Mapping[str, Any]) -> frozenset[str]:
    """The fields and values of a DbtRun that a schema does not have, as `spec.artifacts` or `status.phase: Queued`.

    Where a field is missing, what is below it is not listed.
    """
    kind = inspect.type_info(DbtRun)
    assert isinstance(kind, inspect.StructType)  # noqa: S101 - it is one
    fields = {field.encode_name: field.type for field in kind.fields}
    children = schema.get("properties", {})
    return frozenset(each for part in PARTS for each in _lacking(children.get(part, {}), fields[part], part))


def _lacking(schema: Mapping[str, Any], kind: inspect.Type, path: str) -> Iterator[str]:
    match kind:
        case inspect.UnionType(types=types):
            for each in types:
                yield from _lacking(schema, each, path)
        case inspect.StructType(fields=fields):
            children = schema.get("properties", {})
            for field in fields:
                name = f"{path}.{field.encode_name}"
                if field.encode_name in children:
                    yield from _lacking(children[field.encode_name], field.type, name)
                else:
                    yield name
        case inspect.VarTupleType(item_type=item):
            yield from _lacking(schema.get("items", {}), item, f"{path}[]")
        case inspect.EnumType(cls=cls) if "enum" in schema:
            yield from (f"{path}: {member.value}" for member in cls if member.value not in schema["enum"])
