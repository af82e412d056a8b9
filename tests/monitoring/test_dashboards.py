"""Alerts and dashboards against a real Prometheus that scrapes a real watcher, which has had good days and bad ones."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio
import yaml

from deploy import grafana
from tests.controlplane import ControlPlane, build
from tests.plain import plain_http
from tests.stack import Own, Program, Stack, until
from tests.stack.scrape import scrape
from tests.stack.stack import ADDRESS

ROOT: Final = Path(__file__).parents[2]
RULES: Final = ROOT / "helm/dbtrun/files/alerts.yaml"
NAMESPACE: Final = "dashboards"
NAME: Final = re.compile(r"\b(?:dbtrun|process)_\w+")
SUFFIX: Final = re.compile(r"_(?:bucket|count|sum)$")
LATENT: Final = frozenset(
    {
        # Only while a request failed, a run slot or a place is waited for, or a watch has ended.
        "Requests that failed, by outcome",
        "Waiting for a run slot",
        "Waiting to be started",
    }
)
"""Panels that may be empty on a good day."""

pytestmark = pytest.mark.asyncio(loop_scope="module")


def queries() -> Iterator[tuple[str, str]]:
    """Title and expression of every panel."""
    for _, _, rows in grafana.DASHBOARDS.values():
        for row in rows:
            for panel in row.panels:
                yield from ((panel.title, expression) for expression, _ in panel.queries)


def expressions() -> list[str]:
    rules = yaml.safe_load(RULES.read_text())
    alerts = [alert["expr"] for group in rules["groups"] for alert in group["rules"]]
    return [*alerts, *(expression for _, expression in queries())]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    await asyncio.to_thread(plane.create_namespace_sync, NAMESPACE)
    async with Stack.up(plane, NAMESPACE, tmp_path_factory.mktemp(NAMESPACE)) as stack:
        yield stack


class Prometheus:
    """A Prometheus that scrapes one watcher each second and has the alerts."""

    def __init__(self, folder: Path, target: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        job = {"job_name": "watcher", "honor_labels": True, "static_configs": [{"targets": [target]}]}
        settings = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [job],
        }
        config = folder / "prometheus.yml"
        config.write_text(yaml.safe_dump(settings))
        flags = {
            "config.file": str(config),
            "storage.tsdb.path": str(folder / "data"),
            "web.listen-address": self.address,
            "log.level": "warn",
        }
        argv = [str(build.ensure("prometheus")["prometheus"]), *(f"--{name}={value}" for name, value in flags.items())]
        self.program = Program("prometheus", argv, {"HOME": str(folder)}, folder / "prometheus.log")

    async def ask(self, path: str, **params: str) -> Any:
        async with plain_http() as http:
            answer = (await http.get(f"http://{self.address}/api/v1/{path}", params=params)).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    async def ready(self) -> bool:
        """Whether it answers queries: while it opens its database, it refuses them."""
        try:
            async with plain_http() as http:
                return (await http.get(f"http://{self.address}/-/ready")).is_success
        except httpx.HTTPError:
            return False

    async def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of a panel's query."""
        filled = expression.replace("$namespace", ".*").replace("$__rate_interval", "30s")
        return list((await self.ask("query", query=filled))["result"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prometheus(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Prometheus]:
    target = (await stack.watcher.says(ADDRESS))[1]
    server = Prometheus(tmp_path_factory.mktemp("prometheus"), target)
    server.program.start()

    async def scraped() -> bool:
        return await server.ready() and bool(await server.query("dbtrun_leader == 1"))

    try:
        await until(scraped, 60, "the first scrape")
        await live(stack)
        yield server
    finally:
        await server.program.kill()


async def live(stack: Stack) -> None:
    """Runs that succeed, fail, go on and cannot be started."""
    for number in (1, 2):
        for job, end in (("success", "Succeeded"), ("failure", "Failed")):
            own = Own(stack, f"{job}-{number}")
            await own.apply(job)
            await own.reaches(end)
    slower: dict[str, Any] = {"id": 601, "name": "slower than usual", "queue": 0.1, "start": 0.1, "parallel": True}
    for number, seconds in enumerate((1.0, 1.0, None)):
        await stack.ask("PUT", "/jobs/601", slower | {"run": seconds})
        own = Own(stack, f"slower-{number}")
        await own.apply(None, job={"id": 601})
        await own.reaches("Running" if seconds is None else "Succeeded")
    lost = Own(stack, "lost")
    await lost.apply("success", connectionRef={"name": "missing"})
    await lost.reaches("Pending", reason="InvalidConnection")


async def test_the_process_serves_whatever_alerts_and_dashboards_name(stack: Stack, prometheus: Prometheus) -> None:
    served = (await scrape(stack.watcher)).names
    named = {SUFFIX.sub("", name) for expression in expressions() for name in NAME.findall(expression)}
    assert len(named) > 20
    assert [name for name in sorted(named) if name not in served] == []


async def test_every_query_of_the_dashboards_has_an_answer(prometheus: Prometheus) -> None:
    async def unanswered() -> list[str]:
        return [
            title for title, expression in queries() if title not in LATENT and not await prometheus.query(expression)
        ]

    async def all_answered() -> bool:
        return not await unanswered()

    try:
        await until(all_answered, 60)
    except AssertionError:
        assert await unanswered() == []
    for _, expression in queries():
        await prometheus.query(expression)


async def test_alerts_of_the_real_watcher_become_pending_and_fire(prometheus: Prometheus) -> None:
    async def states() -> dict[str, str]:
        return {alert["labels"]["alertname"]: alert["state"] for alert in (await prometheus.ask("alerts"))["alerts"]}

    async def told() -> bool:
        return {"DbtRunSecretMissing", "DbtRunJobFailing"} <= (await states()).keys()

    await until(told, 60, "alerts")
    now = await states()
    assert now["DbtRunJobFailing"] == "firing"
    assert now.keys() == {"DbtRunSecretMissing", "DbtRunJobFailing"}
