"""Lists: filters in every syntax that clients use, order, pages, and what is echoed."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.conftest import CI, ELSEWHERE, FAILING, OTHER, QUICK, Cloud, client_of


@pytest.fixture
async def history(cloud: Cloud) -> list[int]:
    """Four runs: finished ones of two jobs, a failed one elsewhere, and a queued one."""
    runs = [await cloud.start(QUICK), await cloud.start(OTHER), await cloud.start(ELSEWHERE)]
    cloud.time.move(100)
    return [run["id"] for run in [*runs, await cloud.start(QUICK)]]


async def test_the_default_order_is_oldest_first(cloud: Cloud, history: list[int]) -> None:
    assert await cloud.ids() == history
    assert await cloud.ids(order_by="-id") == history[::-1]


async def test_unfinished_runs_come_last_by_finish_and_first_in_reverse(cloud: Cloud, history: list[int]) -> None:
    assert (await cloud.ids(order_by="finished_at"))[-1] == history[3]
    assert (await cloud.ids(order_by="-finished_at"))[0] == history[3]


@pytest.mark.parametrize(
    "written",
    [
        lambda a, b: [("pk__in", f"[{a}, {b}]")],
        lambda a, b: [("pk__in", f"[{a},{b}]")],
        lambda a, b: [("pk__in", str(a)), ("pk__in", str(b))],
        lambda a, b: [("pk__in", f"{a},{b}")],
    ],
    ids=["JSON", "compact JSON", "repeated", "commas"],
)
async def test_an_array_is_understood_in_every_syntax(cloud: Cloud, history: list[int], written: Any) -> None:
    response = await cloud.client.get("runs/", params=written(history[0], history[2]))
    assert [run["id"] for run in response.json()["data"]] == [history[0], history[2]]
    assert response.json()["extra"]["filters"]["pk__in"] == [history[0], history[2]]


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({"status__in": "[1, 2, 3]"}, [3]),
        ({"status__in": "[10,20]"}, [0, 1, 2]),
        ({"status": 20}, [2]),
        ({"job_definition_id": QUICK}, [0, 3]),
        ({"project_id": 12}, [2]),
        ({"project_id__in": "[11]"}, [0, 1, 3]),
        ({"environment_id": 22}, [2]),
        ({"dbt_version": "1.5.2"}, [2]),
        ({"created_at__range": '["2024-07-03T13:00:00Z", "2024-07-03 14:00:30+00:00"]'}, [0, 1, 2]),
        ({"finished_at__range": '["2024-07-03T13:59:12+00:00", "2024-07-03T13:59:12.5+00:00"]'}, [2]),
        ({"job_definition_id": QUICK, "status__in": "[10]"}, [0]),
        ({"state": "deleted"}, []),
        ({"no_such_filter": 1, "status_in": "[10]"}, [0, 1, 2, 3]),
        ({"include_related": ""}, [0, 1, 2, 3]),
    ],
)
async def test_a_filter_selects(cloud: Cloud, history: list[int], params: dict[str, Any], expected: list[int]) -> None:
    assert await cloud.ids(**params) == [history[index] for index in expected]


async def test_keyset_paging_by_id_continues_where_it_stopped(cloud: Cloud, history: list[int]) -> None:
    assert await cloud.ids(id__gt=history[1], limit=1) == [history[2]]


async def test_filters_are_echoed_and_unknown_ones_are_not(cloud: Cloud, history: list[int]) -> None:
    response = await cloud.client.get("runs/", params={"status__in": "[1]", "pk_in": "[1]", "limit": 2, "offset": 0})
    assert response.json()["extra"] == {
        "filters": {"limit": 2, "offset": 0, "state": "all", "account_id": 70403103922125, "status__in": [1]},
        "order_by": "id",
        "pagination": {"count": 1, "total_count": 1},
    }
    assert [run["id"] for run in response.json()["data"]] == [history[3]]


async def test_a_list_has_at_most_a_hundred_and_pages_cover_the_rest(cloud: Cloud) -> None:
    ids = [(await cloud.start(CI))["id"] for _ in range(120)]
    response = await cloud.client.get("runs/")
    assert response.json()["extra"]["pagination"] == {"count": 100, "total_count": 120}
    assert [run["id"] for run in response.json()["data"]] + await cloud.ids(offset=100) == ids


@pytest.mark.parametrize(
    "written", ['["trigger","job"]', "['trigger', 'job']", "trigger,job"], ids=["JSON", "Python", "commas"]
)
async def test_relations_are_null_unless_included(cloud: Cloud, written: str) -> None:
    await cloud.start()
    bare = (await cloud.data("GET", "runs/"))[0]
    assert (bare["trigger"], bare["job"], bare["environment"], bare["run_steps"]) == (None, None, None, [])
    full = (await cloud.data("GET", "runs/", params={"include_related": written}))[0]
    assert (full["trigger"]["cause"], full["job"]["name"], full["environment"]) == ("test", "quick", None)


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"limit": 101}, "limit"),
        ({"limit": 0}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"order_by": "status"}, "order_by"),
        ({"pk__in": "[one]"}, "pk__in"),
        ({"created_at__range": '["yesterday","today"]'}, "created_at__range"),
        ({"finished_at__range": '["2024-01-01"]'}, "finished_at__range"),
        ({"state": "gone"}, "state"),
        ({"has_docs_generated": "perhaps"}, "has_docs_generated"),
    ],
)
async def test_a_bad_parameter_is_refused_by_name(cloud: Cloud, params: dict[str, Any], field: str) -> None:
    response = await cloud.client.get("runs/", params=params)
    assert response.status_code == 400
    assert list(response.json()["data"]) == [field]


async def test_jobs_projects_and_environments_are_found_by_part_of_their_name(cloud: Cloud) -> None:
    assert [job["id"] for job in await cloud.data("GET", "jobs/", params={"name__icontains": "FAIL"})] == [FAILING]
    v3 = "http://simulator/api/v3/accounts/70403103922125/projects/"
    assert [p["id"] for p in await cloud.data("GET", v3, params={"name__icontains": "fin"})] == [12]
    assert [e["id"] for e in await cloud.data("GET", f"{v3}12/environments/", params={"name__icontains": "prod"})] == [
        22
    ]


async def test_a_token_of_one_project_sees_nothing_of_the_others(cloud: Cloud, history: list[int]) -> None:
    async with client_of(cloud.simulator, "finance-only") as finance:
        assert [run["id"] for run in (await finance.get("runs/")).json()["data"]] == [history[2]]
        assert [job["id"] for job in (await finance.get("jobs/")).json()["data"]] == [ELSEWHERE]
        assert [project["id"] for project in (await finance.get("projects/")).json()["data"]] == [12]
        hidden = [f"runs/{history[0]}/", f"jobs/{QUICK}/", "projects/11/", "environments/21/"]
        assert {(await finance.get(path)).status_code for path in hidden} == {404}
        assert (await finance.post(f"jobs/{QUICK}/run/", json={"cause": "x"})).status_code == 404
        assert (await finance.post(f"runs/{history[3]}/cancel/")).status_code == 404
