"""The simulated dbt project, as manifest.json and catalog.json describe it. Pure.

Both satisfy dbt's published schemas (manifest v12, catalog v1). A node is what its unique id says; its SQL is not
simulated.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

Json = dict[str, Any]

DATABASE = "analytics"
FOLDERS = {"model": "models", "seed": "seeds", "snapshot": "snapshots", "test": "tests", "analysis": "analyses"}
EMPTY = (
    "macros", "docs", "exposures", "metrics", "groups", "selectors", "disabled", "group_map", "saved_queries",
    "semantic_models", "unit_tests",
)  # fmt: skip
"""Parts of a manifest that the simulated project does not have."""
SNAPSHOT = {"strategy": "timestamp", "updated_at": "updated_at", "unique_key": "id"}


def manifest(unique_ids: Iterable[str], metadata: Json, schema: str) -> Json:
    """A manifest with these nodes, each of which depends on the one before."""
    ids = list(dict.fromkeys(unique_ids))
    nodes = [node for node in ids if not is_source(node)]
    before = dict(zip(nodes[1:], nodes, strict=False))
    parents = {node: [before[node]] if node in before else [] for node in ids}
    children = {node: [child for child, parent in before.items() if parent == node] for node in ids}
    return {
        "metadata": metadata,
        "nodes": {node: _node(node, schema, parents[node]) for node in nodes},
        "sources": {node: _source(node) for node in ids if is_source(node)},
        **{part: {} for part in EMPTY},
        "parent_map": parents,
        "child_map": children,
    }


def catalog(unique_ids: Iterable[str], metadata: Json, schema: str) -> Json:
    """A catalog of the tables that these nodes make."""
    tables = [node for node in dict.fromkeys(unique_ids) if _kind(node) in ("model", "seed", "snapshot", "source")]
    described = {node: _table(node, schema) for node in tables}
    return {
        "metadata": metadata,
        "nodes": {node: table for node, table in described.items() if not is_source(node)},
        "sources": {node: table for node, table in described.items() if is_source(node)},
        "errors": None,
    }


def is_source(unique_id: str) -> bool:
    """Whether it is a table that dbt reads and does not make."""
    return _kind(unique_id) == "source"


def _kind(unique_id: str) -> str:
    """The type of a node; a word that is no type of dbt counts as a model."""
    kind = unique_id.partition(".")[0]
    return kind if kind in FOLDERS or kind == "source" else "model"


def _names(unique_id: str) -> tuple[str, str]:
    """The package and the name of a node."""
    parts = unique_id.split(".")
    package = parts[1] if len(parts) > 2 else "shop"
    # The unique id of a test ends with a digest.
    return package, parts[2] if _kind(unique_id) == "test" and len(parts) > 2 else parts[-1]


def _node(unique_id: str, schema: str, parents: list[str]) -> Json:
    kind = _kind(unique_id)
    package, name = _names(unique_id)
    path = f"{name}.{'csv' if kind == 'seed' else 'sql'}"
    node: Json = {
        "database": DATABASE,
        "schema": schema,
        "name": name,
        "resource_type": kind,
        "package_name": package,
        "path": path,
        "original_file_path": f"{FOLDERS[kind]}/{path}",
        "unique_id": unique_id,
        "fqn": [package, name],
        "alias": name,
        "checksum": {"name": "sha256", "checksum": hashlib.sha256(unique_id.encode()).hexdigest()},
        "tags": [],
        "description": "",
        "columns": {},
        "relation_name": f'"{DATABASE}"."{schema}"."{name}"',
        "raw_code": "",
    }
    if kind == "snapshot":
        node["config"] = {"materialized": "snapshot", **SNAPSHOT}
    # Seeds depend on macros only.
    return node if kind == "seed" else node | {"depends_on": {"macros": [], "nodes": parents}}


def _source(unique_id: str) -> Json:
    parts = unique_id.split(".")
    package, name = _names(unique_id)
    group = parts[2] if len(parts) > 3 else "raw"
    return {
        "database": DATABASE,
        "schema": group,
        "name": name,
        "resource_type": "source",
        "package_name": package,
        "path": "models/sources.yml",
        "original_file_path": "models/sources.yml",
        "unique_id": unique_id,
        "fqn": [package, group, name],
        "source_name": group,
        "source_description": "",
        "loader": "",
        "identifier": name,
    }


def _table(unique_id: str, schema: str) -> Json:
    kind = _kind(unique_id)
    name = _names(unique_id)[1]
    column = {"type": "INTEGER", "index": 1, "name": "id", "comment": None}
    missing = {"id": "has_stats", "label": "Has Stats?", "value": False, "include": False, "description": None}
    return {
        "metadata": {
            "type": "VIEW" if kind == "model" else "TABLE",
            "schema": schema,
            "name": name,
            "database": DATABASE,
            "comment": None,
            "owner": None,
        },
        "columns": {"id": column},
        "stats": {"has_stats": missing},
        "unique_id": unique_id,
    }
