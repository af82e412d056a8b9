"""The outcome by node of a run with several dbt steps."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import httpx
import pytest

from dbtrun.api import Results
from dbtrun.api.status import FAILED_NODE
from tests.unit.dbtcloud import account
from watcher.dbtcloud import merge
from watcher.dbtcloud.errors import ServerFault
from watcher.dbtcloud.merge import File, files_of
from watcher.lifecycle.facts import StepFacts

STATUSES = (
    "success",
    "error",
    "fail",
    "pass",
    "warn",
    "skipped",
    "reused",
    "runtime error",
    "no-op",
    "partial success",
)
SYSTEM = ("Clone git repository", "Create profile from connection Warehouse", "Invoke dbt with `dbt deps`")


def step(index: int, command: str | None = None, state: int = 10, *, begun: bool = True) -> StepFacts:
    name = SYSTEM[index - 1] if command is None else f"Invoke dbt with `{command}`"
    started = account.NOON if begun else None
    return StepFacts(index=index, name=name, state=state, status="Success", started_at=started)


def steps_of(*commands: str) -> list[StepFacts]:
    return [*(step(index) for index in (1, 2, 3)), *(step(index, command) for index, command in enumerate(commands, 4))]


def node(unique_id: str, status: str, **more: Any) -> dict[str, Any]:
    return {"unique_id": unique_id, "status": status, "message": f"{status} of {unique_id}", **more}


class Files:
    """dbt Cloud's artifacts of one run: by step and name."""

    def __init__(self, files: dict[tuple[int, str], Any]) -> None:
        self.files = files
        self.asked: list[tuple[int, str]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        key = int(request.url.params.get("step", 0)), request.url.path.rpartition("/")[2]
        self.asked.append(key)
        answer = self.files.get(key)
        if isinstance(answer, httpx.Response):
            return answer
        return httpx.Response(404) if answer is None else httpx.Response(200, json=answer)


async def results(files: Files, steps: list[StepFacts]) -> Results | None:
    return await account.client(files).results(1, steps)


# ── which files ──


@pytest.mark.parametrize(
    ("command", "path"),
    [
        ("dbt build", "run_results.json"),
        ("dbt --log-level debug build --select a", "run_results.json"),
        ("dbt run-operation grant --args '{a: b}'", "run_results.json"),
        ("dbt source freshness --select source:raw", "sources.json"),
        ("dbtf build", "run_results.json"),
    ],
)
def test_a_step_that_ran_nodes_has_a_file(command: str, path: str) -> None:
    assert files_of(steps_of(command)) == [File(4, path)]


@pytest.mark.parametrize(
    "command", ["dbt deps", "dbt docs generate", "dbt debug", "dbt parse", "dbt ls", "dbt compile"]
)
def test_a_step_that_runs_no_node_costs_no_request(command: str) -> None:
    assert files_of(steps_of(command)) == []


def test_the_last_step_comes_first_and_what_never_ran_not_at_all() -> None:
    never = [step(7, "dbt test", 30, begun=False), step(8, "dbt test", 3)]
    assert files_of([*steps_of("dbt seed", "dbt run", "dbt test"), *never]) == [
        File(number, "run_results.json") for number in (6, 5, 4)
    ]


def test_steps_that_are_not_known_or_have_other_names_leave_the_last_file() -> None:
    assert (
        files_of([])
        == files_of([StepFacts(index=1, name="Run", state=20, status="")])
        == [File(None, "run_results.json")]
    )


# ── merging ──


async def test_a_node_counts_as_the_last_step_left_it() -> None:
    files = Files(
        {
            (4, "run_results.json"): {"results": [node("model.a", "error"), node("model.b", "success")]},
            (5, "run_results.json"): {"results": [node("model.a", "success"), node("test.c", "fail")]},
        }
    )
    told = await results(files, steps_of("dbt run", "dbt build", "dbt docs generate"))
    assert told is not None
    assert told.counts == {"success": 2, "fail": 1}
    assert [failed.unique_id for failed in told.failures] == ["test.c"]
    assert files.asked == [(5, "run_results.json"), (4, "run_results.json")]


async def test_a_file_that_only_compiled_counts_nothing() -> None:
    """`dbt docs generate` says `success` of every node that it compiled."""
    compiled = {"results": [node("model.a", "success")], "args": {"which": "generate"}}
    files = Files({(5, "run_results.json"): compiled, (4, "run_results.json"): {"results": [node("model.a", "error")]}})
    told = await results(files, steps_of("dbt build", "dbt retry"))
    assert told is not None
    assert told.counts == {"error": 1}


async def test_late_sources_are_failures() -> None:
    late = {"unique_id": "source.shop.raw.orders", "status": "error", "max_loaded_at": "2026-01-01T00:00:00Z"}
    broken = {"unique_id": "source.shop.raw.items", "status": "runtime error", "error": "no such table"}
    told = await results(Files({(4, "sources.json"): {"results": [late, broken]}}), steps_of("dbt source freshness"))
    assert told is not None
    assert told.counts == {"error": 1, "runtime error": 1}
    assert [failed.message for failed in told.failures] == ["last loaded at 2026-01-01T00:00:00Z", "no such table"]


async def test_steps_without_results_leave_none() -> None:
    assert await results(Files({}), steps_of("dbt build")) is None
    assert await results(Files({}), steps_of("dbt deps")) is None


async def test_a_step_whose_results_cannot_be_read_is_named() -> None:
    files = Files(
        {
            (4, "run_results.json"): httpx.Response(200, text="{"),
            (5, "run_results.json"): {"results": [node("a", "fail")]},
        }
    )
    told = await results(files, steps_of("dbt run", "dbt test"))
    assert told is not None
    assert (told.counts, told.unread_steps) == ({"fail": 1}, (4,))


async def test_a_step_that_left_no_results_lacks_none() -> None:
    told = await results(
        Files({(5, "run_results.json"): {"results": [node("a", "fail")]}}), steps_of("dbt run", "dbt test")
    )
    assert told is not None
    assert (told.counts, told.unread_steps) == ({"fail": 1}, ())


async def test_a_step_whose_results_are_too_large_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("watcher.dbtcloud.client.MAX_FILE", 1_000)
    many = [node(f"model.shop.m{number}", "success") for number in range(100)]
    files = Files(
        {(4, "run_results.json"): {"results": many}, (5, "run_results.json"): {"results": [node("a", "fail")]}}
    )
    told = await results(files, steps_of("dbt run", "dbt test"))
    assert told is not None
    assert (told.counts, told.unread_steps) == ({"fail": 1}, (4,))


async def test_a_fault_of_dbt_cloud_is_no_result() -> None:
    with pytest.raises(ServerFault):
        await results(Files({(4, "run_results.json"): httpx.Response(502)}), steps_of("dbt run"))


async def test_messages_hold_no_secret() -> None:
    words = f"connection to postgres://loader:hunter2@db failed\npassword: hunter3 {account.SECRET}"
    told = await results(
        Files({(4, "run_results.json"): {"results": [node("model.a", "error", message=words)]}}), steps_of("dbt run")
    )
    assert told is not None
    assert told.failures[0].message == "connection to postgres://***@db failed\npassword: ***"


# ── bounds ──


async def test_only_so_many_steps_are_read() -> None:
    files = Files({(number, "run_results.json"): {"results": [node(f"m{number}", "success")]} for number in range(200)})
    told = await results(files, steps_of(*["dbt run"] * 100))
    assert told is not None
    assert len(files.asked) == merge.MAX_FILES
    assert told.counts == {"success": merge.MAX_FILES}
    assert len(told.unread_steps) == 50


async def test_more_nodes_than_are_kept_apart_are_not_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "MAX_NODES", 3)
    many = {"results": [node(f"m{number}", "success") for number in range(4)]}
    alone = await results(Files({(4, "run_results.json"): many}), steps_of("dbt run"))
    assert alone is not None
    assert (alone.counts, alone.unread_steps) == ({"success": 4}, ())
    twice = Files({(4, "run_results.json"): many, (5, "run_results.json"): many})
    told = await results(twice, steps_of("dbt run", "dbt test"))
    assert told is not None
    assert (told.counts, told.unread_steps) == ({"success": 4}, (4,))
    last = Files({(4, "run_results.json"): {"results": [node("m0", "error")]}, (5, "run_results.json"): many})
    told = await results(last, steps_of("dbt run", "dbt test"))
    assert told is not None
    assert (told.counts, told.unread_steps) == ({"success": 4}, (4,))
    few = Files({(4, "run_results.json"): many, (5, "run_results.json"): {"results": [node("m0", "error")]}})
    told = await results(few, steps_of("dbt run", "dbt test"))
    assert told is not None
    assert (told.counts, told.unread_steps) == ({"error": 1}, (4,))


async def test_statuses_without_end_are_counted_as_others() -> None:
    odd = {"results": [node(f"m{number}", f"odd {number}") for number in range(1_500)]}
    told = await results(Files({(4, "run_results.json"): odd}), steps_of("dbt run"))
    assert told is not None
    assert (len(told.counts), sum(told.counts.values())) == (21, 1_500)


# ── an oracle ──


def expected(runs: list[list[dict[str, Any]]]) -> tuple[Counter[str], list[str]]:
    """The other way round than the code: a table in which later steps overwrite earlier ones."""
    last: dict[str, dict[str, Any]] = {}
    for one in runs:
        for result in one:
            last.pop(result["unique_id"], None)
            last[result["unique_id"]] = result
    failed = [unique_id for unique_id, result in last.items() if result["status"] in FAILED_NODE]
    return Counter(result["status"] for result in last.values()), failed


async def test_hundreds_of_random_runs_count_as_an_oracle_does() -> None:
    for seed in range(300):
        lot = random.Random(seed)  # noqa: S311 - no cryptography
        names = [f"model.shop.m{number}" for number in range(lot.randint(1, 30))]
        runs = []
        for _ in range(lot.randint(1, 6)):
            chosen = lot.sample(names, lot.randint(0, len(names)))
            runs.append([node(name, lot.choice(STATUSES)) for name in chosen])
        files = Files({(number, "run_results.json"): {"results": one} for number, one in enumerate(runs, 4)})
        told = await results(files, steps_of(*["dbt build"] * len(runs)))
        assert told is not None
        counts, failed = expected(runs)
        assert told.counts == counts, seed
        assert {failure.unique_id for failure in told.failures} <= set(failed), seed
        assert len(told.failures) == min(20, len(failed)), seed
        assert len(files.asked) == len(runs), seed
