"""The API of DbtRunMirrors is written twice, too: as types for the code and as a schema for the API server."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import yaml
from msgspec import inspect

from dbtrun.api import GROUP, VERSION
from dbtrun.api.mirrors import MAX_RECENT, MIRROR_KIND, MIRROR_PLURAL, MirrorSpec, MirrorStatus
from tests.unit.api.test_crd import ROOT, defaults, nodes, of_schema, of_type

CRD: dict[str, Any] = yaml.safe_load((ROOT / "deploy/crd/dbtrun.dev_dbtrunmirrors.yaml").read_text())
SCHEMA: dict[str, Any] = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


@pytest.mark.parametrize(("root", "kind"), [("spec", MirrorSpec), ("status", MirrorStatus)])
def test_types_and_crd_have_the_same_fields_of_the_same_types(root: str, kind: type[msgspec.Struct]) -> None:
    def shapes(found: Any) -> dict[str, Any]:
        # A condition's type and observedGeneration are written as metav1.Condition has them.
        return {path: shape for path, shape in found if "conditions[]" not in path}

    assert shapes(of_schema(SCHEMA["properties"][root], root)) == shapes(of_type(inspect.type_info(kind), root))


def test_spec_defaults_are_those_of_the_types() -> None:
    found = dict(nodes(SCHEMA["properties"]["spec"], "spec"))
    in_crd = {path: node["default"] for path, node in found.items() if node.get("default", {}) != {}}
    assert in_crd == dict(defaults(inspect.type_info(MirrorSpec), "spec"))


def test_the_crd_carries_the_names_of_the_code() -> None:
    names = CRD["spec"]["names"]
    assert CRD["metadata"]["name"] == f"{MIRROR_PLURAL}.{GROUP}"
    version = CRD["spec"]["versions"][0]["name"]
    assert (CRD["spec"]["group"], version, names["kind"]) == (GROUP, VERSION, MIRROR_KIND)


def test_every_run_that_is_remembered_has_room() -> None:
    recent = SCHEMA["properties"]["status"]["properties"]["cursor"]["properties"]["recent"]
    assert recent["maxItems"] >= 2 * MAX_RECENT
