"""Files on their way from dbt Cloud to the cluster: what arrives, and what is said of the rest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import httpx
import pytest

from dbtrun.api import Artifact
from dbtrun.api.status import MAX_PROBLEM
from dbtrun.kube.errors import Conflict, Forbidden, KubeError, NotFound
from tests.unit.dbtcloud import account
from tests.unit.lifecycle.builders import RUN, run
from watcher import artifacts
from watcher.lifecycle.decisions import KeepArtifacts
from watcher.lifecycle.keeping import MAX_BYTES
from watcher.lifecycle.known import KeepTry

NAME: Final = "nightly-artifacts"


@dataclass
class Places:
    """dbt Cloud's files by path, and where they are put."""

    files: dict[str, bytes | httpx.Response]
    error: Exception | None = None
    stored: dict[str, dict[str, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def answer(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.partition("/artifacts/")[2]
        self.asked.append(path)
        found = self.files.get(path, account.refusal(404, "Not found."))
        return httpx.Response(200, content=found) if isinstance(found, bytes) else found

    async def store(self, name: str, files: Mapping[str, bytes]) -> None:
        if self.error is not None:
            raise self.error
        self.stored.setdefault(name, {}).update(files)

    async def keep(self, *wanted: str, before: KeepTry | None = None) -> KeepTry:
        """A try to keep what is wanted; after `before`, what that lacks."""
        obj = run(artifacts=wanted)
        decision = KeepArtifacts(RUN, before.lacking if before else wanted)
        client = account.client(self.answer)

        async def fetch(path: str, room: int) -> bytes | None:
            return await client.artifact(RUN, path, room)

        return await artifacts.keep(decision, obj, before, fetch, self.store, lambda: 7.0)


def kept(path: str, size: int) -> Artifact:
    return Artifact(path=path, config_map=NAME, key=path.replace("/", ".."), bytes=size)


def problem(told: KeepTry, path: str) -> str:
    (found,) = [artifact for artifact in told.artifacts if artifact.path == path]
    assert not found.kept
    assert found.problem
    return found.problem


async def test_what_is_there_is_stored_and_told() -> None:
    places = Places({"a.json": b"{}", "compiled/shop/b.sql": b"select"})
    told = await places.keep("compiled/shop/b.sql", "a.json")
    assert places.stored == {NAME: {"a.json": b"{}", "compiled..shop..b.sql": b"select"}}
    assert told.artifacts == (kept("compiled/shop/b.sql", 6), kept("a.json", 2))
    assert (told.run_id, told.at, told.tries, told.again) == (RUN, 7.0, 1, False)


async def test_what_is_missing_may_come_and_the_rest_is_kept() -> None:
    told = await Places({"a.json": b"{}"}).keep("late.json", "a.json")
    assert problem(told, "late.json") == artifacts.MISSING
    assert told.artifacts[1] == kept("a.json", 2)
    assert told.again


async def test_another_try_asks_for_what_is_lacking_only() -> None:
    places = Places({"a.json": b"{}"})
    first = await places.keep("late.json", "a.json")
    places.files["late.json"] = b"[]"
    second = await places.keep("late.json", "a.json", before=first)
    assert places.asked == ["late.json", "a.json", "late.json"]
    assert second.artifacts == (kept("late.json", 2), kept("a.json", 2))
    assert (second.tries, second.again) == (2, False)


async def test_the_bound_is_for_all_files_together_and_over_all_tries() -> None:
    places = Places({"most": bytes(MAX_BYTES - 5), "six": b"666666", "four": b"4444"})
    told = await places.keep("most", "six", "four", "late")
    assert [artifact.kept for artifact in told.artifacts] == [True, False, True, False]
    assert "too large: 5 of the 900,000 bytes" in problem(told, "six")
    places.files["late"] = b"22"
    assert "too large: 1 of" in problem(await places.keep("most", "six", "four", "late", before=told), "late")


async def test_a_file_that_is_too_large_will_not_shrink() -> None:
    assert not (await Places({"huge": bytes(MAX_BYTES + 1)}).keep("huge")).again


async def test_a_fault_of_dbt_cloud_costs_one_file_and_may_pass() -> None:
    told = await Places({"a": account.page_of_a_proxy(502), "b": b"b"}).keep("a", "b")
    assert "502" in problem(told, "a")
    assert told.artifacts[1] == kept("b", 1)
    assert told.again


async def test_nothing_is_stored_of_nothing() -> None:
    places = Places({}, error=AssertionError("an empty ConfigMap"))
    assert problem(await places.keep("a"), "a") == artifacts.MISSING


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (Forbidden("configmaps is forbidden: exceeded quota"), False),
        (KubeError("HTTP 500"), True),
        (Conflict("changed"), True),
        (NotFound("gone"), True),
    ],
)
async def test_a_fault_of_the_api_server_is_told_and_is_no_failure(error: Exception, again: bool) -> None:
    told = await Places({"a": b"a"}, error=error).keep("a", "b")
    assert problem(told, "a") == f"It could not be stored: {error}"
    assert problem(told, "b") == artifacts.MISSING
    alone = await Places({"a": b"a"}, error=error).keep("a")
    assert alone.again is again


async def test_a_right_that_is_missing_is_named_as_the_charts_value() -> None:
    error = Forbidden('configmaps is forbidden: User "system:serviceaccount:a:b" cannot create resource "configmaps"')
    told = await Places({"a": b"a"}, error=error).keep("a")
    assert "artifacts.namespaces give the right" in problem(told, "a")
    assert not told.again


async def test_a_problem_is_a_short_sentence_in_plain_text() -> None:
    told = await Places({"a": b"a"}, error=Forbidden("\x1b[31mno\x1b[0m " + "x" * 999)).keep("a")
    assert len(problem(told, "a")) == MAX_PROBLEM
    assert "\x1b" not in problem(told, "a")
