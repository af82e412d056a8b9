"""The file that says what all steps of a run built."""

from __future__ import annotations

import json
import random
from typing import Any

import httpx
import pytest

from dbtrun.api.status import KINDS
from tests.unit.dbtcloud import account
from tests.unit.dbtcloud.test_merge import STATUSES, Files, node, step, steps_of
from watcher.dbtcloud import merge
from watcher.dbtcloud.errors import ServerFault, TooLarge
from watcher.lifecycle.facts import StepFacts

RUN = 1
LIMIT = 900_000
RESULTS = "run_results.json"


def read(steps: list[StepFacts]) -> httpx.Response:
    """The run, as dbt Cloud tells it with its steps."""
    told = [
        {"index": each.index, "name": each.name, "status": each.state, "started_at": account.stamp(account.NOON)}
        if each.started_at
        else {"index": each.index, "name": each.name, "status": each.state}
        for each in steps
    ]
    return account.envelope(account.run(RUN, 10, run_steps=told))


async def file_of(files: Files, steps: list[StepFacts], limit: int = LIMIT, *, early: bool = False) -> bytes | None:
    def answer(request: httpx.Request) -> httpx.Response:
        return files(request) if "/artifacts/" in request.url.path else read(steps)

    return await account.client(answer).builds(RUN, limit, early=early)


async def built(files: Files, steps: list[StepFacts]) -> list[dict[str, Any]]:
    content = await file_of(files, steps)
    assert content is not None
    return list(json.loads(content)["results"])


async def test_the_nodes_of_all_steps_are_there_each_as_its_last_step_left_it() -> None:
    files = Files(
        {
            (4, RESULTS): {"results": [node("seed.shop.s", "success"), node("model.shop.a", "error")]},
            (5, RESULTS): {"results": [node("model.shop.a", "success"), node("snapshot.shop.b", "success")]},
        }
    )
    found = await built(files, steps_of("dbt seed", "dbt build"))
    assert {each["unique_id"]: (each["status"], each["step"]) for each in found} == {
        "seed.shop.s": ("success", 4),
        "model.shop.a": ("success", 5),
        "snapshot.shop.b": ("success", 5),
    }


async def test_what_an_asset_needs_is_there_and_nothing_else() -> None:
    given = node(
        "model.shop.a",
        "success",
        relation_name='"db"."s"."a"',
        adapter_response={"_message": "SELECT 7", "rows_affected": 7},
        compiled_code="select",
    )
    assert await built(Files({(4, RESULTS): {"results": [given]}}), steps_of("dbt build")) == [
        {
            "unique_id": "model.shop.a",
            "status": "success",
            "step": 4,
            "relation_name": '"db"."s"."a"',
            "adapter_response": {"rows_affected": 7},
        }
    ]


@pytest.mark.parametrize(
    "odd", [None, [], "text", 5, {"rows_affected": "many"}, {"rows_affected": -1}, {"rows_affected": 10**30}, {}]
)
async def test_rows_are_unknown_where_an_adapter_says_something_else(odd: Any) -> None:
    given = {"results": [node("model.shop.a", "success", adapter_response=odd)]}
    (found,) = await built(Files({(4, RESULTS): given}), steps_of("dbt build"))
    assert found["adapter_response"] == {"rows_affected": None}


async def test_tests_and_what_was_only_compiled_are_not_there() -> None:
    compiled = {"results": [node("model.shop.a", "success")], "args": {"which": "generate"}}
    files = Files({(4, RESULTS): {"results": [node("test.shop.t", "pass")]}, (5, RESULTS): compiled})
    assert await built(files, steps_of("dbt test", "dbt retry")) == []


async def test_a_run_of_which_no_step_runs_nodes_built_nothing() -> None:
    assert await built(Files({}), steps_of("dbt deps")) == []


async def test_results_may_still_come() -> None:
    assert await file_of(Files({}), steps_of("dbt build")) is None


async def test_a_step_that_succeeded_has_results_which_may_still_come() -> None:
    files = Files({(4, RESULTS): {"results": [node("seed.shop.s", "success")]}})
    assert await file_of(files, steps_of("dbt seed", "dbt build"), early=True) is None
    assert await file_of(files, steps_of("dbt seed", "dbt build"), early=False) is not None


async def test_a_step_that_failed_before_it_ran_a_node_has_none() -> None:
    files = Files({(4, RESULTS): {"results": [node("seed.shop.s", "success")]}})
    steps = [*steps_of("dbt seed"), step(5, "dbt build", 20)]
    assert await file_of(files, steps, early=True) is not None


@pytest.mark.parametrize("odd", ["{", "[]", '{"results": 5}', "[" * 100_000])
async def test_a_step_whose_results_cannot_be_read_is_not_left_out(odd: str) -> None:
    files = Files(
        {(4, RESULTS): httpx.Response(200, text=odd), (5, RESULTS): {"results": [node("model.shop.a", "success")]}}
    )
    with pytest.raises(ServerFault, match="step 4"):
        await file_of(files, steps_of("dbt seed", "dbt build"))


async def test_steps_that_are_not_read_are_not_left_out() -> None:
    with pytest.raises(ServerFault, match="31 steps"):
        await file_of(Files({}), steps_of(*["dbt build"] * (merge.MAX_FILES + 1)))


async def test_it_has_no_more_bytes_than_it_may() -> None:
    many = {"results": [node(f"model.shop.m{number}", "success") for number in range(100)]}
    files = Files({(4, RESULTS): many})
    whole = await file_of(files, steps_of("dbt build"))
    assert whole is not None
    # Each result is counted with its separator, of which the last has none.
    assert await file_of(files, steps_of("dbt build"), len(whole) + 2) == whole
    with pytest.raises(TooLarge):
        await file_of(files, steps_of("dbt build"), len(whole) - 1)


async def test_the_results_of_four_and_a_half_thousand_models_fit() -> None:
    nodes = [
        node(
            f"model.a_project.a_model_with_a_long_name_{number}", "success", relation_name=f'"db"."schema"."m{number}"'
        )
        for number in range(4_500)
    ]
    content = await file_of(Files({(4, RESULTS): {"results": nodes}}), steps_of("dbt build"))
    assert content is not None
    assert len(content) < LIMIT


async def test_random_runs_are_as_a_table_that_later_steps_overwrite() -> None:
    for seed in range(200):
        lot = random.Random(seed)  # noqa: S311 - no cryptography
        names = [f"{lot.choice((*KINDS, 'test.'))}shop.m{number}" for number in range(lot.randint(1, 30))]
        runs = [
            [node(name, lot.choice(STATUSES)) for name in lot.sample(names, lot.randint(0, len(names)))]
            for _ in range(lot.randint(1, 6))
        ]
        files = Files({(number, RESULTS): {"results": one} for number, one in enumerate(runs, 4)})
        expected = {each["unique_id"]: each["status"] for one in runs for each in one}
        found = await built(files, steps_of(*["dbt build"] * len(runs)))
        assert len(found) == len({each["unique_id"] for each in found})
        assert {each["unique_id"]: each["status"] for each in found} == {
            name: status for name, status in expected.items() if name.startswith(KINDS)
        }, seed
