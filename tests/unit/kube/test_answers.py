"""One table of answers means the same to all who ask: watcher, trigger, operator, artifacts and listing."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web

from airflow_trigger.artifacts import Files
from airflow_trigger.task.runs import task_runs
from airflow_trigger.waiting.runs import HubRuns
from dbtrun.api import parse
from dbtrun.kube import cluster as kube
from dbtrun.kube.cluster import Cluster
from dbtrun.kube.config import Timeouts
from dbtrun.kube.credentials import kubeconfig
from dbtrun.kube.errors import Expired, KubeError, Unauthorized, Unreachable
from tests.unit.kube.answers import ANSWERS, LIMIT, OF_ANOTHER_VERSION, Answer, dbtrun, page, status
from tests.unit.world.apiserver import listening
from watcher.cluster.access import ClusterAccess
from watcher.cluster.listing import list_objects, list_versions
from watcher.cluster.writer import Writer

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Ask = Callable[[ClusterAccess], Awaitable[object]]
QUICK: Final = Timeouts(connect=5.0, total=5.0)
IMPATIENT: Final = Timeouts(connect=5.0, total=0.3)
"""For answers that never come."""


async def names_of(access: ClusterAccess) -> Sequence[str]:
    """As the watcher lists them."""
    return [str(getattr(item, "name", "") or item.metadata.name) async for item in list_objects(access, "team", 500)]  # type: ignore[union-attr]


async def in_hub(access: Cluster) -> Sequence[str]:
    return list((await HubRuns(access, "team").list()).runs)


async def of_task(access: Cluster) -> Sequence[str]:
    return [run.name for run in await task_runs(access, "team").list("a=b")]


async def of_files(access: Cluster) -> Sequence[str]:
    return [run.metadata.name for run in await Files(access, "team").runs()]


GETS: Final[dict[str, Ask]] = {
    "watcher": lambda access: Writer(access).get("team", "nightly"),
    "watcher's write": lambda access: Writer(access).add_finalizer(parse(dbtrun())),
    "trigger": lambda access: HubRuns(access, "team").get("nightly"),
    "trigger's creation": lambda access: HubRuns(access, "team").create({"metadata": {}}),
    "operator": lambda access: task_runs(access, "team").get("nightly"),
    "operator's patch": lambda access: task_runs(access, "team").patch("nightly", {"spec": {}}),
    "artifacts": lambda access: Files(access, "team").run("nightly"),
}
LISTS: Final[dict[str, Callable[[ClusterAccess], Awaitable[Sequence[str]]]]] = {
    "watcher": names_of,
    "trigger": in_hub,
    "operator and listing": of_task,
    "artifacts": of_files,
}


@asynccontextmanager
async def serving(folder: Path, handler: Handler, timeouts: Timeouts = QUICK) -> AsyncIterator[ClusterAccess]:
    async with listening(folder, handler) as path, ClusterAccess(kubeconfig(path, None), timeouts) as access:
        yield access


@pytest.fixture(autouse=True)
def limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube, "MAX_ANSWER", LIMIT)
    monkeypatch.setattr(kube, "RENEW_SECONDS", 0.0)


def test_the_table_is_long() -> None:
    assert len(ANSWERS) >= 25


@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_means_the_same_to_all_who_ask_for_an_object(tmp_path: Path, name: str) -> None:
    answer = ANSWERS[name]
    async for asker, access in one_by_one(tmp_path, answer, GETS):
        creation = asker == "trigger's creation"
        meaning = Unreachable if creation and name == "409 of a version" else answer.meaning
        assert meaning is not None
        with told_as(asker, meaning) as caught:
            await GETS[asker](access)
        assert caught.value.retry_after == answer.retry_after, asker
        assert 0 < len(str(caught.value)) < 700, asker
        assert "\n" not in str(caught.value), asker


@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_means_the_same_to_all_who_list(tmp_path: Path, name: str) -> None:
    answer = ANSWERS[name]
    assert answer.of_a_list is not None
    async for asker, access in one_by_one(tmp_path, answer, LISTS):
        with told_as(asker, answer.of_a_list):
            await LISTS[asker](access)


async def one_by_one(
    folder: Path, answer: Answer, askers: Iterable[str]
) -> AsyncGenerator[tuple[str, ClusterAccess], None]:
    """Each who asks, with a connection of its own to one server that always answers this."""
    timeouts = IMPATIENT if answer.silent else QUICK
    async with listening(folder, answer.respond) as path:
        for asker in askers:
            async with ClusterAccess(kubeconfig(path, None), timeouts) as access:
                yield asker, access


@contextmanager
def told_as(asker: str, meaning: type[KubeError]) -> Iterator[pytest.ExceptionInfo[KubeError]]:
    """Nothing else is raised, not even a kind of it."""
    try:
        with pytest.raises(meaning) as caught:
            yield caught
    except BaseException as error:
        error.add_note(f"to the {asker}")
        raise
    assert type(caught.value) is meaning, asker


BAD: Final[dict[str, Any]] = {
    "a number": 5,
    "null": None,
    "an object without metadata": {"spec": {}},
    "an object without a name": {"metadata": {"uid": "u", "resourceVersion": "1"}, "spec": {}},
    "text": "nightly",
}


@pytest.mark.parametrize("asker", LISTS)
@pytest.mark.parametrize("bad", BAD)
async def test_one_bad_item_never_fails_a_list(
    tmp_path: Path, bad: str, asker: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def respond(_request: web.Request) -> web.Response:
        return web.json_response(page(dbtrun("a"), BAD[bad], dbtrun("b")))

    caplog.set_level(logging.WARNING)
    async with serving(tmp_path, respond) as access:
        assert sorted(await LISTS[asker](access)) == ["a", "b"]
    assert "1 DbtRuns cannot be read and are left out" in caplog.text


async def test_an_object_of_another_version_is_told_from_a_bad_item(tmp_path: Path) -> None:
    """The watcher shows such an object to its owner; the others leave it out."""
    stored = {**dbtrun("odd"), "spec": {"job": "text"}}

    async def respond(_request: web.Request) -> web.Response:
        return web.json_response(page(dbtrun("a"), stored, OF_ANOTHER_VERSION))

    async with serving(tmp_path, respond) as access:
        assert sorted(await names_of(access)) == ["a", "odd"]
        assert sorted(await of_files(access)) == ["a", "odd"]


async def test_what_a_list_left_out_is_not_taken_for_gone(tmp_path: Path) -> None:
    async def respond(_request: web.Request) -> web.Response:
        return web.json_response(page({"metadata": {"uid": "u"}}, kind="PartialObjectMetadataList"))

    async with serving(tmp_path, respond) as access:
        items = list_objects(access, "team", 500)
        with pytest.raises(Unreachable, match="have no uid"):
            await list_versions(access, "team", 500)

        async def runs(_request: web.Request) -> web.Response:
            return web.json_response(page(5, dbtrun("a")))

    async with serving(tmp_path, runs) as access:
        items = list_objects(access, "team", 500)
        assert [item async for item in items]
        assert items.left_out == 1


class Pages:
    """A list of many pages; some requests are answered otherwise."""

    def __init__(self, names: Sequence[str], *, instead: Callable[[int, int], Answer | None] = lambda *_: None) -> None:
        self.names = names
        self.limits: list[int] = []
        self.begins: list[int] = []
        self._instead = instead

    async def respond(self, request: web.Request) -> web.StreamResponse:
        limit, begin = int(request.query["limit"]), int(request.query.get("continue") or 0)
        self.limits.append(limit)
        self.begins.append(begin)
        instead = self._instead(len(self.limits), limit)
        if instead is not None:
            return await instead.respond(request)
        end = begin + limit
        items = [dbtrun(name) for name in self.names[begin:end]]
        return web.json_response(page(*items, more=str(end) if end < len(self.names) else ""))


MANY: Final = [f"run-{number:03}" for number in range(130)]


@pytest.mark.parametrize("asker", LISTS)
async def test_all_pages_are_read(tmp_path: Path, asker: str) -> None:
    pages = Pages(MANY)
    async with serving(tmp_path, pages.respond) as access:
        assert list(await LISTS[asker](access)) == MANY
    assert len(pages.limits) > 1


@pytest.mark.parametrize("asker", LISTS)
async def test_a_list_whose_token_expired_is_begun_again(tmp_path: Path, asker: str) -> None:
    pages = Pages(MANY, instead=lambda number, _limit: ANSWERS["410"] if number == 2 else None)
    async with serving(tmp_path, pages.respond) as access:
        listed = await LISTS[asker](access)
    assert sorted(set(listed)) == MANY
    assert pages.begins[1:3] == [pages.limits[0], 0], "the token that expired is not used again"
    assert len(listed) == len(MANY) or asker == "watcher", "only the watcher, which goes by uid, may see some twice"


@pytest.mark.parametrize("asker", LISTS)
async def test_a_page_that_is_too_large_is_asked_for_in_smaller_ones(tmp_path: Path, asker: str) -> None:
    pages = Pages(MANY, instead=lambda _number, limit: ANSWERS["a huge answer"] if limit > 5 else None)
    async with serving(tmp_path, pages.respond) as access:
        assert list(await LISTS[asker](access)) == MANY
    assert max(pages.limits) > 5


@pytest.mark.parametrize("asker", [*GETS])
async def test_credentials_that_were_renewed_are_used_before_anybody_is_told(tmp_path: Path, asker: str) -> None:
    async def respond(request: web.Request) -> web.Response:
        if request.headers["Authorization"] != "Bearer new":
            path = tmp_path / "kubeconfig"
            path.write_text(path.read_text().replace("t0ken", "new"))
            return web.Response(status=401, body=status(401, "Unauthorized"))
        return web.json_response(dbtrun())

    async with serving(tmp_path, respond) as access:
        assert await GETS[asker](access)


async def test_requests_that_are_refused_together_renew_the_credentials_once(tmp_path: Path) -> None:
    refused = 0

    async def respond(_request: web.Request) -> web.Response:
        nonlocal refused
        refused += 1
        await asyncio.sleep(0.1)
        return web.Response(status=401, body=status(401, "Unauthorized"))

    async with serving(tmp_path, respond) as access:
        reads = 0
        read = access._credentials.read

        async def counted() -> Any:
            nonlocal reads
            reads += 1
            return await read()

        object.__setattr__(access._credentials, "read", counted)
        await access.open()
        asked = [access.request("GET", f"/{number}") for number in range(8)]
        told = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(error) for error in told] == [Unauthorized] * 8
    assert refused == 16
    assert reads == 2


async def test_renewal_keeps_what_is_under_way(tmp_path: Path) -> None:
    """A watch of a thousand triggers is not cut because one request met an old token."""

    async def respond(request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            answer = web.StreamResponse()
            await answer.prepare(request)
            for version in ("1", "2"):
                line = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": version}}}
                await answer.write(json.dumps(line).encode() + b"\n")
                await renewed.wait()
            return answer
        return web.Response(status=401, body=status(401, "Unauthorized"))

    renewed = asyncio.Event()
    async with serving(tmp_path, respond) as access:
        watch = HubRuns(access, "team").watch("1", 30.0)
        assert (await anext(watch)).version == "1"
        with pytest.raises(Unauthorized):
            await access.request("GET", "/api")
        renewed.set()
        assert (await anext(watch)).version == "2"
        await watch.aclose()


@pytest.mark.parametrize("name", [name for name in ANSWERS if ANSWERS[name].status != 200])
async def test_a_watch_that_is_refused_says_why(tmp_path: Path, name: str) -> None:
    answer = ANSWERS[name]
    # A server that refuses to select by phase is asked for everything from then on.
    meaning = Unreachable if answer.status in (400, 422) else answer.meaning
    assert meaning is not None
    async with serving(tmp_path, answer.respond) as access:
        with pytest.raises(meaning):
            await anext(HubRuns(access, "team").watch("1", 5.0))


async def test_an_error_inside_of_a_watch_means_the_same(tmp_path: Path) -> None:
    async def respond(_request: web.Request) -> web.Response:
        return web.Response(body=b'{"type": "ERROR", "object": ' + status(410, "too old", "Expired") + b"}\n")

    async with serving(tmp_path, respond) as access:
        with pytest.raises(Expired, match="too old"):
            await anext(HubRuns(access, "team").watch("1", 5.0))
