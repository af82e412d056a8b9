"""Random values from the CRD's own schema: what it allows, up to its bounds, and what it forbids by one field.

Our own because the values must please the API server's rules (CEL, list types, formats) and be shaped to hurt.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from itertools import pairwise
from random import Random
from typing import Any, Final, NamedTuple

import yaml

from tests.stack.site import CRD

Schema = Mapping[str, Any]
Value = dict[str, Any]
Place = tuple[str | int, ...]
Make = Callable[[Random], Any]

INT64: Final = 2**63
SECRETS: Final = ("a", "no-such", "x" * 253, "a.b-c.1")
"""Connections that do not exist."""
INT32: Final = 2**31
ALPHABETS: Final = (
    string.ascii_letters + string.digits,
    "🦆🧨👩‍👩‍👧‍👦🇺🇦",
    "שלום عليكم \u202e\u200f",
    "e\u0301a\u0300\u0336o\u0308\u0489",
    "".join(map(chr, range(1, 32))) + "\x7f\x85\u2028\ufeff",
    "\x1b[31m{}%s$(){{ }}'\"\\/<>&;,\n",
    "零一二三ßÅ\U0010fffd",
)
TIMES: Final[tuple[Any, ...]] = (
    "2026-11-23T05:00:00Z",
    "2026-11-23T05:00:00.123456789Z",
    "0001-01-01T00:00:00Z",
    "0001-01-01T00:00:00+23:59",
    "0000-01-01T00:00:00Z",
    "1969-12-31T23:59:59-11:00",
    "9999-12-31T23:59:59Z",
    "9999-12-31T23:59:59-23:59",
    "2026-02-28T24:00:00Z",
    "2016-12-31T23:59:60Z",
    "2026-11-23t05:00:00z",
    "2026-11-23T05:00:00+99:99",
    [],
)
"""Some of them are refused: then the refusal must be a sentence. The API server takes an empty list for a time."""


def _load() -> tuple[Schema, Schema]:
    crd = yaml.load(CRD.read_text(), yaml.CSafeLoader)
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    return schema["spec"], schema["status"]


SPEC, STATUS = _load()


class Break(NamedTuple):
    """One field made wrong: where, how, and how the refusal must call it."""

    place: Place
    make: Make
    named: str
    beside: tuple[tuple[Place, Schema], ...] = ()
    """Fields that must be there for this one to be."""

    def applied(self, value: Value, random: Random) -> Value:
        """The value with this field wrong."""
        for place, schema in self.beside:
            value = put(value, place, Maker(random).value(schema, _named(place)))
        return put(value, self.place, self.make(random))


class Maker:
    """Draws values of a schema. The same Random draws the same values."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def value(self, schema: Schema, named: str) -> Any:
        """Anything that the schema allows; `named` is the field's full name."""
        if named in SPECIAL:
            return SPECIAL[named](self.random)
        if "enum" in schema:
            return self.random.choice(schema["enum"])
        match schema["type"]:
            case "boolean":
                return self.random.random() < 0.5
            case "integer":
                return self._integer(schema)
            case "string":
                return self._string(schema)
            case "array":
                return self._array(schema, named)
        return self._object(schema, named)

    def _integer(self, schema: Schema) -> int:
        bits = INT32 if schema.get("format") == "int32" else INT64
        low, high = schema.get("minimum", -bits), schema.get("maximum", bits - 1)
        near = [low, low + 1, high, high - 1, self.random.randint(low, high), max(low, min(high, 1))]
        return int(self.random.choice(near))

    def _string(self, schema: Schema) -> Any:
        if schema.get("format") == "date-time":
            return self.random.choice(TIMES)
        low, high = schema.get("minLength", 0), schema.get("maxLength", 10_000)
        length = self.random.choice([low, max(low, 1), min(high, 20), self.random.randint(low, high), high])
        if "pattern" in schema:
            return self.random.choice(["Unheard", "R" * max(1, length), "CancelRequested", "RunStarted"])
        return self.text(length)

    def text(self, length: int) -> str:
        """So many characters of one alphabet, or of all."""
        letters = self.random.choice([*ALPHABETS, "".join(ALPHABETS)])
        return "".join(self.random.choices(letters, k=length))

    def _array(self, schema: Schema, named: str) -> list[Any]:
        low, high = schema.get("minItems", 0), schema.get("maxItems", 5)
        count = self.random.choice([low, max(low, 1), max(low, 1), self.random.randint(low, high), high])
        items = [self.value(schema["items"], f"{named}[]") for _ in range(count)]
        match schema.get("x-kubernetes-list-type"):
            case "set":
                return sorted(set(items))
            case "map":
                (key,) = schema["x-kubernetes-list-map-keys"]
                return list({item[key]: item for item in items}.values())
        return items

    def _object(self, schema: Schema, named: str) -> Value:
        if "additionalProperties" in schema:
            keys = {self.text(self.random.randint(1, 30)) for _ in range(self.random.choice([0, 1, 3, 40]))}
            return {key: self.value(schema["additionalProperties"], f"{named}.*") for key in sorted(keys)}
        wanted = set(schema.get("required", ()))
        properties = schema["properties"].items()
        return {
            name: self.value(inner, f"{named}.{name}")
            for name, inner in properties
            if name in wanted or self.random.random() < 0.4
        }

    def spec(self) -> Value:
        """A whole spec that the rules between its fields allow too."""
        spec: Value = self._object(SPEC, "spec")
        spec.pop("runId", None)
        spec["job"] = self._job()
        if self.random.random() < 0.15:
            spec = {key: spec[key] for key in spec.keys() - {"job", "overrides", "retry", "retryOf", "reuse"}}
            spec["runId"] = self.value(SPEC["properties"]["runId"], "spec.runId")
        request = spec.get("overrides", {}).get("pullRequestId")
        if request is not None:
            host = self.random.choice(["github", "gitlab", "azureDevOps", "other"])
            spec["overrides"]["pullRequestId"] = {host: self.random.choice([1, INT64 - 1])}
        return spec

    def _job(self) -> Value:
        fields = SPEC["properties"]["job"]["properties"]
        names = ["id"] if self.random.random() < 0.7 else ["name", "project", "environment"]
        return {name: self.value(fields[name], f"spec.job.{name}") for name in names}

    def status(self) -> Value:
        """A whole status."""
        return self._object(STATUS, "status")


def _cause(random: Random) -> str:
    return Maker(random).text(random.choice([0, 1, 200])).replace("dbtrun:", "")


def _secret(random: Random) -> str:
    return random.choice(["dbt-cloud", *SECRETS])


def _artifact(random: Random) -> str:
    return random.choice(
        ["run_results.json", "manifest.json", "compiled/shop/a.sql", "a" * 200, "-", "/".join("abcdefgh" * 5)]
    )


SPECIAL: Final[Mapping[str, Make]] = {
    "spec.cause": _cause,
    "spec.connectionRef.name": _secret,
    "spec.artifacts[]": _artifact,
}
"""Fields whose rules are written in CEL."""


# ── what is forbidden ──


def breaks(schema: Schema, place: Place, beside: tuple[tuple[Place, Schema], ...] = ()) -> Iterator[Break]:
    """Every way in which one field of the schema can be wrong."""
    for make in (*_wrong_types(schema), *_beyond(schema)):
        yield Break(place, make, _named(place), beside)
    if "properties" in schema:
        needed = tuple(((*place, name), schema["properties"][name]) for name in schema.get("required", ()))
        yield Break((*place, "unheardOf"), lambda _: 1, f"{_named(place)}.unheardOf", beside + needed)
        for name, inner in schema["properties"].items():
            yield from breaks(inner, (*place, name), beside + needed)
    elif "items" in schema:
        yield from breaks(schema["items"], (*place, 0), beside)


def _wrong_types(schema: Schema) -> Iterator[Make]:
    values = {"integer": 7, "string": "seven", "boolean": True, "array": [], "object": {}, "number": 1.5}
    for name, value in values.items():
        if name != schema["type"] and not (name == "array" and schema.get("format") == "date-time"):
            yield lambda _, value=value: value  # type: ignore[misc]


def _beyond(schema: Schema) -> Iterator[Make]:
    if "enum" in schema:
        yield lambda _: "Unheard"
    if "minimum" in schema:
        yield lambda _: schema["minimum"] - 1
    if "maximum" in schema:
        yield lambda _: schema["maximum"] + 1
    if schema.get("minLength"):
        yield lambda _: ""
    if "maxLength" in schema:
        yield lambda random: Maker(random).text(schema["maxLength"] + 1)
    if schema.get("minItems"):
        yield lambda _: []
    if "maxItems" in schema:
        yield lambda random: [Maker(random).value(schema["items"], "")] * (schema["maxItems"] + 1)


def _named(place: Place) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


RULES: Final[tuple[tuple[Value, str], ...]] = (
    ({"runId": 1, "job": {"id": 1}}, "spec needs exactly one of job"),
    ({"runId": None, "job": None}, "spec needs exactly one of job"),
    ({"runId": 1, "job": None, "overrides": {}}, "spec.overrides cannot be combined with spec.runId"),
    ({"runId": 1, "job": None, "retry": {}}, "spec.retry cannot be combined with spec.runId"),
    ({"runId": 1, "job": None, "retryOf": 1}, "spec.retryOf cannot be combined with spec.runId"),
    ({"runId": 1, "job": None, "reuse": "Running"}, "spec.reuse cannot be combined with spec.runId"),
    ({"runId": None, "job": {"id": 1, "name": "a"}}, "spec.job needs either id, or name"),
    ({"runId": None, "job": {"name": "a"}}, "spec.job needs either id, or name"),
    ({"cause": "by dbtrun:"}, "spec.cause must not contain 'dbtrun:'"),
    ({"connectionRef": {"name": "Dbt_Cloud"}}, "spec.connectionRef.name must be the name of a Secret"),
    ({"artifacts": ["../../etc/passwd"]}, "spec.artifacts[] must be a path below"),
    ({"artifacts": ["a", "a"]}, "spec.artifacts[1]: Duplicate value"),
)
"""What breaks a rule between fields, and the words that tell so."""

SPEC_BREAKS: Final = tuple(breaks(SPEC, ("spec",)))
STATUS_BREAKS: Final = tuple(one for one in breaks(STATUS, ("status",)) if len(one.place) > 1)


def put(value: Value, place: Place, new: Any) -> Value:
    """A copy of the value with something else at a place; what is missing on the way is made."""
    copy = deepcopy(value)
    at: Any = copy
    for part, following in pairwise(place):
        empty: Any = [None] if isinstance(following, int) else {}
        if isinstance(part, int):
            at[part] = at[part] if isinstance(at[part], type(empty)) and at[part] else empty
        elif not isinstance(at.get(part), type(empty)) or (not at[part] and empty):
            at[part] = empty
        at = at[part]
    at[place[-1]] = new
    return copy
