"""Which models a run built, and how Airflow names their assets. Pure.

The names are those of Cosmos and OpenLineage, with `/` where Airflow 3 wants it: `postgres://host:5432/db/schema/table`.
run_results.json knows the relation, but not the warehouse's address: that is the user's to say.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from dbtrun.api.status import KINDS

# Other statuses built nothing: `no-op` came with dbt 1.10 and `reused` with 1.12. Of a microbatch model with the status
# `partial success`, some batches failed, and dbt itself skips what depends on it.
BUILT: Final = frozenset({"success"})
REUSED: Final = frozenset({"reused"})
_PART: Final = re.compile(r'"((?:[^"]|"")*)"|`([^`]*)`|\[([^\]]*)\]|([^."`\[\]\s]+)')


class _Node(msgspec.Struct, frozen=True):
    """One result. dbt Fusion leaves out what is null."""

    unique_id: str = ""
    status: str = ""
    relation_name: str | None = None
    adapter_response: Any = None


class _RunResults(msgspec.Struct, frozen=True):
    results: list[_Node] = []


@dataclass(frozen=True)
class Built:
    """A node that the run built."""

    unique_id: str
    status: str
    relation: tuple[str, ...]
    rows: int | None

    def uri(self, namespace_uri: str | None, host: str, account: int | None) -> str:
        """The asset's name and address. Without the warehouse's address it is an address in dbt Cloud."""
        if namespace_uri is None or not self.relation:
            return f"x-dbt://{host}/{account or 0}/{self.unique_id}"
        return "/".join((namespace_uri.rstrip("/"), *self.relation))


def built(run_results: bytes, models: Sequence[str], *, include_reused: bool) -> list[Built]:
    """What the run built, each node once; of these models only, if there are any, by name or unique id.

    Raises:
        ValueError: it is no run_results.json.
    """
    wanted, statuses = set(models), BUILT | REUSED if include_reused else BUILT
    found: dict[str, Built] = {}
    for node in msgspec.json.decode(run_results, type=_RunResults).results:
        names = {node.unique_id, node.unique_id.rpartition(".")[2]}
        if node.status in statuses and node.unique_id.startswith(KINDS) and (not wanted or wanted & names):
            response = node.adapter_response if isinstance(node.adapter_response, dict) else {}
            rows = response.get("rows_affected")
            found[node.unique_id] = Built(
                node.unique_id, node.status, relation(node.relation_name), rows if isinstance(rows, int) else None
            )
    return list(found.values())


def relation(name: str | None) -> tuple[str, ...]:
    """The parts of a relation's name, as a warehouse quotes them."""
    parts = (next(part for part in found.groups() if part is not None) for found in _PART.finditer(name or ""))
    return tuple(part.replace('""', '"') for part in parts)
