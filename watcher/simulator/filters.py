"""The query string as the API reads it.

Arrays travel as JSON literals (`pk__in=[1,2]`), that is what real clients send; repeated parameters and commas are
accepted too. A filter that the endpoint does not know is ignored without a word.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from watcher.simulator.wire import invalid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from watcher.simulator.model import Account, Run

Kind = Literal["int", "ints", "bool", "text", "texts", "times"]

MAX_LIMIT = 100
STATES = {"active": True, "1": True, "all": True, "deleted": False, "2": False}
RUN_FILTERS: dict[str, Kind] = {
    "created_at__range": "times",
    "finished_at__range": "times",
    "dbt_version": "text",
    "dbt_version__in": "texts",
    "deferring_run_id": "int",
    "environment_id": "int",
    "has_docs_generated": "bool",
    "has_sources_generated": "bool",
    "id__gt": "int",
    "job_definition_id": "int",
    "pk": "int",
    "pk__in": "ints",
    "project_id": "int",
    "project_id__in": "ints",
    "status": "int",
    "status__in": "ints",
}
RUN_ORDERS = ("id", "created_at", "finished_at")


@dataclass(slots=True)
class Query:
    """A list request, understood. `filters` holds what was applied, by name."""

    filters: dict[str, Any] = field(default_factory=dict)
    limit: int = MAX_LIMIT
    offset: int = 0
    order_by: str = "id"
    state: str = "all"

    def echo(self, account_id: int) -> dict[str, Any]:
        """The filters as a reply repeats them."""
        said = {
            name: [str(datetime.fromtimestamp(item, UTC)) for item in value] if isinstance(value, tuple) else value
            for name, value in self.filters.items()
        }
        return {"limit": self.limit, "offset": self.offset, "state": self.state, "account_id": account_id} | said


def parse(
    parameters: Sequence[tuple[str, str]],
    known: Mapping[str, Kind],
    orders: Sequence[str],
    ignored: Iterable[str] = (),
) -> Query:
    """Understand a query string.

    :raises ApiError: 400 for a value that is no such thing, a limit over 100 or an order that is not offered.
    """
    grouped: dict[str, list[str]] = {}
    for name, value in parameters:
        if value:
            grouped.setdefault(name, []).append(value)
    query = Query(
        limit=_number("limit", grouped.pop("limit", [str(MAX_LIMIT)])),
        offset=_number("offset", grouped.pop("offset", ["0"])),
        order_by=grouped.pop("order_by", ["id"])[-1],
        state=grouped.pop("state", ["all"])[-1],
    )
    if not 1 <= query.limit <= MAX_LIMIT:
        raise invalid(limit=f"Ensure this value is between 1 and {MAX_LIMIT}.")
    if query.order_by.removeprefix("-") not in orders:
        raise invalid(order_by=f"Must be one of {', '.join(orders)}, with - for descending.")
    if query.state not in STATES:
        raise invalid(state="Must be one of active, deleted, all.")
    for name, values in grouped.items():
        # An ignored filter is missing from the echo: that is how a client can tell.
        if name in known and name not in ignored:
            query.filters[name] = READERS[known[name]](name, values)
    return query


def related(parameters: Sequence[tuple[str, str]]) -> set[str]:
    """`include_related`, in any of the ways clients write it: JSON, Python list, commas, repeated."""
    return set(_items([value for name, value in parameters if name == "include_related"]))


def _items(values: list[str]) -> list[str]:
    """The members of an array parameter, whichever way it is written."""
    items: list[str] = []
    for value in values:
        text = value.strip()
        if text.startswith("["):
            try:
                items += map(str, json.loads(text))
            except ValueError:  # a Python-style list: ['job']
                items += [part.strip().strip("'\"") for part in text.strip("[]").split(",") if part.strip()]
        else:
            items += [part.strip() for part in text.split(",") if part.strip()]
    return items


def _number(name: str, values: list[str]) -> int:
    try:
        return int(values[-1])
    except ValueError:
        raise invalid(**{name: "A valid integer is required."}) from None


def _numbers(name: str, values: list[str]) -> list[int]:
    return [_number(name, [item]) for item in _items(values)]


def _flag(name: str, values: list[str]) -> bool:
    if values[-1].lower() not in ("true", "false", "1", "0"):
        raise invalid(**{name: "Must be a valid boolean."})
    return values[-1].lower() in ("true", "1")


def _times(name: str, values: list[str]) -> tuple[float, float]:
    try:
        low, high = map(_instant, _items(values))
    except ValueError:
        raise invalid(**{name: "Two date-times are required: [from, to]."}) from None
    return low, high


def _instant(text: str) -> float:
    # A `+` that was not percent-encoded arrives as a space.
    moment = datetime.fromisoformat(re.sub(r"(:\d\d(?:\.\d+)?) (\d\d:\d\d)$", r"\1+\2", text))
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


READERS: dict[Kind, Callable[[str, list[str]], Any]] = {
    "int": _number,
    "ints": _numbers,
    "bool": _flag,
    "text": lambda _, values: values[-1],
    "texts": lambda _, values: _items(values),
    "times": _times,
}


def select_runs(account: Account, query: Query, visible: Callable[[Run], bool]) -> tuple[list[Run], int]:
    """The page of runs that a query asks for, and how many there are in all."""
    if not STATES[query.state]:
        return [], 0
    tests = [TESTS[name](value) for name, value in query.filters.items()]
    found = [run for run in _candidates(account, query.filters) if visible(run) and all(test(run) for test in tests)]
    found.sort(key=ORDERS[query.order_by.removeprefix("-")], reverse=query.order_by.startswith("-"))
    return found[query.offset : query.offset + query.limit], len(found)


def _candidates(account: Account, filters: Mapping[str, Any]) -> Iterable[Run]:
    """The smallest set that is indexed; every filter is still applied to it."""
    if "pk__in" in filters or "pk" in filters:
        wanted = filters.get("pk__in") or [filters.get("pk")]
        return [account.runs[run_id] for run_id in dict.fromkeys(wanted) if run_id in account.runs]
    if "finished_at__range" in filters:
        low, high = filters["finished_at__range"]
        first, last = bisect_left(account.finished, (low, 0)), bisect_right(account.finished, (high, 2**63))
        return [account.runs[run_id] for _, run_id in account.finished[first:last]]
    if filters.get("status__in") and set(filters["status__in"]) <= {1, 2, 3}:
        return list(account.live.values())
    if "job_definition_id" in filters:
        return account.by_job.get(filters["job_definition_id"], [])
    return account.runs.values()


def _within(value: tuple[float, float], stamp: float | None) -> bool:
    # Whether dbt Cloud's bounds are inclusive is not documented. Clients are safe with either if their windows overlap.
    return stamp is not None and value[0] <= stamp <= value[1]


TESTS: dict[str, Callable[[Any], Callable[[Run], bool]]] = {
    "created_at__range": lambda value: lambda run: _within(value, run.created_at),
    "finished_at__range": lambda value: lambda run: _within(value, run.finished_at),
    "dbt_version": lambda value: lambda run: run.dbt_version == value,
    "dbt_version__in": lambda value: lambda run: run.dbt_version in value,
    "deferring_run_id": lambda _: lambda _run: False,
    "environment_id": lambda value: lambda run: run.environment_id == value,
    "has_docs_generated": lambda value: lambda run: (run.status == 10 and "dbt docs generate" in run.commands) is value,
    "has_sources_generated": lambda value: lambda _run: value is False,
    "id__gt": lambda value: lambda run: run.id > value,
    "job_definition_id": lambda value: lambda run: run.job_id == value,
    "pk": lambda value: lambda run: run.id == value,
    "pk__in": lambda value: lambda run, ids=frozenset(value): run.id in ids,  # type: ignore[misc]
    "project_id": lambda value: lambda run: run.project_id == value,
    "project_id__in": lambda value: lambda run: run.project_id in value,
    "status": lambda value: lambda run: run.status == value,
    "status__in": lambda value: lambda run: run.status in value,
}
# Nobody has published where unfinished runs stand: like PostgreSQL, nulls are the greatest.
ORDERS: dict[str, Callable[[Run], tuple[float, int]]] = {
    "id": lambda run: (0.0, run.id),
    "created_at": lambda run: (run.created_at, run.id),
    "finished_at": lambda run: (float("inf") if run.finished_at is None else run.finished_at, run.id),
}
