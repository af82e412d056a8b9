"""What the served CRD lacks: told once, as soon as it is found, and taken back when it is mended."""

from __future__ import annotations

import logging
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import yaml

from dbtrun.api import API_VERSION, GROUP, KIND, VERSION
from dbtrun.api.fields import lacking
from dbtrun.kube.errors import KubeError, NotFound
from watcher.cluster.access import ClusterAccess
from watcher.cluster.served_crd import PATH, ServedCrd

CRD = yaml.safe_load((Path(__file__).parents[3] / "deploy/crd/dbtrun.dev_dbtruns.yaml").read_text())
SCHEMA: dict[str, Any] = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def without(*paths: str) -> dict[str, Any]:
    """The CRD's schema without these fields, as an earlier release may have had it."""
    schema = deepcopy(SCHEMA)
    for path in paths:
        *parents, name = path.split(".")
        node = schema
        for parent in parents:
            node = node["properties"][parent.removesuffix("[]")]
            node = node["items"] if parent.endswith("[]") else node
        del node["properties"][name]
    return schema


class Api:
    """An API server as far as its OpenAPI document goes."""

    def __init__(self) -> None:
        self.answer: dict[str, Any] | Exception = SCHEMA

    async def request(self, method: str, path: str) -> bytes:
        assert (method, path) == ("GET", PATH)
        if isinstance(self.answer, Exception):
            raise self.answer
        kinds = [{"group": GROUP, "version": VERSION, "kind": KIND}]
        schemas = {"Other": {"type": "object"}, "DbtRun": {**self.answer, "x-kubernetes-group-version-kind": kinds}}
        return msgspec.json.encode({"openapi": "3.0.0", "components": {"schemas": schemas}})


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def crd(api: Api) -> ServedCrd:
    return ServedCrd(cast(ClusterAccess, api))


def fields(schema: dict[str, Any], path: str = "") -> list[str]:
    """Every field of a schema, by its path."""
    found = []
    for name, child in schema.get("properties", {}).items():
        here = f"{path}.{name}" if path else name
        found += [here, *fields(child, here), *fields(child.get("items", {}), f"{here}[]")]
    return found


@pytest.mark.parametrize("path", [path for path in fields(SCHEMA) if path.startswith(("spec.", "status."))])
def test_each_field_that_is_missing_is_found_and_nothing_else(path: str) -> None:
    assert lacking(without(path)) == {path}


def test_nothing_is_missing_in_the_crd_of_this_release_or_a_newer_one() -> None:
    newer = deepcopy(SCHEMA)
    newer["properties"]["status"]["properties"]["phase"]["enum"].append("Skipped")
    newer["properties"]["spec"]["properties"]["color"] = {"type": "string"}
    assert lacking(SCHEMA) == lacking(newer) == frozenset()


def test_a_value_that_is_missing_is_found() -> None:
    older = deepcopy(SCHEMA)
    older["properties"]["status"]["properties"]["phase"]["enum"].remove("Cancelling")
    assert lacking(older) == {"status.phase: Cancelling"}


async def test_what_is_missing_is_told_once_and_so_is_its_return(
    api: Api, crd: ServedCrd, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    api.answer = without("spec.artifacts", "status.host")
    await crd.check()
    await crd.check()
    crd.dropped(frozenset({"status.host"}))
    assert crd.missing == {"spec.artifacts", "status.host"}
    assert caplog.text.count("the API server drops spec.artifacts, status.host") == 1
    assert "lacks spec.artifacts:" in str(crd.warning())
    api.answer = SCHEMA
    await crd.check()
    await crd.check()
    assert caplog.text.count("has all fields of this release now") == 1
    assert crd.warning() is None


async def test_a_write_tells_sooner_than_the_next_look(crd: ServedCrd, caplog: pytest.LogCaptureFixture) -> None:
    await crd.check()
    crd.dropped(frozenset({"status.host"}))
    assert "the API server drops status.host" in caplog.text
    assert crd.warning() is None, "no manifest sets a status"


@pytest.mark.parametrize("trouble", [KubeError("away"), NotFound(f"/openapi/v3/apis/{API_VERSION}")])
async def test_an_answer_that_does_not_come_changes_nothing(api: Api, crd: ServedCrd, trouble: Exception) -> None:
    api.answer = without("status.host")
    await crd.check()
    api.answer = trouble
    with pytest.raises(type(trouble)):
        await crd.check()
    assert crd.missing == {"status.host"}
