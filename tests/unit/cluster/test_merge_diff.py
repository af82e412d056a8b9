"""The merge patch of a status: what the API server makes of it is exactly the new status."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dbtrun.api import Phase, Reason, Status, to_wire
from watcher.cluster.writer import merge_diff

KEYS = st.sampled_from(["a", "b", "c"])
JSON = st.recursive(
    st.integers(0, 3) | st.sampled_from(["", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(KEYS, JSON, max_size=3)


def merged(target: Any, patch: Any) -> Any:
    """MergePatch as RFC 7386, section 2, defines it."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


@given(OBJECTS, OBJECTS)
def test_merging_the_difference_gives_the_new_object(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert merged(old, merge_diff(old, new)) == new


@given(OBJECTS)
def test_equal_objects_differ_in_nothing(same: dict[str, Any]) -> None:
    assert merge_diff(same, same) == {}


def test_only_what_changed_is_sent() -> None:
    at = datetime(2024, 5, 1, tzinfo=UTC)
    before = to_wire(Status(phase=Phase.RUNNING, reason=Reason.RUN_STARTED, progress="1/2", run_id=7, started_at=at))
    after = to_wire(Status(phase=Phase.RUNNING, reason=Reason.RUN_STARTED, run_id=7, started_at=at, message="m"))
    assert merge_diff(before, after) == {"progress": None, "message": "m"}
