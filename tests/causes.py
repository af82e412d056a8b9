"""Eight ways for a run to fail, as jobs of the simulator, with the words that a person must see of each."""

from __future__ import annotations

from typing import Any, Final, NamedTuple


class Cause(NamedTuple):
    """A job that fails so, and what tells why."""

    job: dict[str, Any]
    words: str
    phase: str = "Failed"


CAUSES: Final[dict[str, Cause]] = {
    "clone": Cause({"fails_at": "clone"}, "repository 'https://github.com/acme/shop.git/' not found"),
    "profile": Cause({"fails_at": "profile"}, "'password' is a required property"),
    "deps": Cause({"fails_at": "deps"}, "Package dbt-labs/dbt_utilz was not found in the package index"),
    "parse": Cause({"fails_at": "parse"}, "depends on a node named 'ordrs' which was not found"),
    "model": Cause(
        {"failing": [{"node": "model.shop.orders", "message": 'relation "raw.orders" does not exist'}]},
        'model.shop.orders: relation "raw.orders" does not exist',
    ),
    "test": Cause(
        {
            "steps": ["dbt run", "dbt test"],
            "results": [
                [{"node": "model.shop.orders"}],
                [{"node": "test.shop.not_null_orders_id", "status": "fail", "message": "Got 3 results", "failures": 3}],
            ],
        },
        "test.shop.not_null_orders_id: Got 3 results",
    ),
    "freshness": Cause(
        {
            "steps": ["dbt source freshness", "dbt build"],
            "failing_step": 1,
            "results": [[{"node": "source.shop.raw.orders", "status": "error"}], []],
        },
        "source.shop.raw.orders: last loaded at ",
    ),
    "time-out": Cause({"run": None, "timeout_seconds": 3}, "This run timed out after", "TimedOut"),
}


def jobs(first_id: int, **common: Any) -> list[dict[str, Any]]:
    """The jobs of a scenario, with ids in a row; each is quick."""
    quick = {"queue": 0, "start": 0, "run": 1, "outcomes": ["error"], **common}
    return [
        {**quick, "name": name, "id": job_id, **cause.job}
        for job_id, (name, cause) in enumerate(CAUSES.items(), first_id)
    ]
