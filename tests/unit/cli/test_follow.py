"""Following runs to their ends, whatever the API server does meanwhile, and which cluster that is."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from dbtrun.cli import runs as module
from dbtrun.cli.cluster import Place, connected, kubeconfigs
from dbtrun.cli.runs import Runs, follow
from dbtrun.kube.errors import Expired, Forbidden, KubeError, Misconfigured, NotFound, Unreachable
from tests.unit.cli.builders import body
from tests.unit.world.apiserver import kubeconfig

Answer = list[dict[str, Any]] | KubeError
Watch = list[tuple[str, dict[str, Any]] | KubeError]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSES", (0.0, 0.0))


def obj(name: str, phase: str, version: int) -> dict[str, Any]:
    made = body(name, phase=phase)
    made["metadata"]["resourceVersion"] = str(version)
    return made


class Body:
    """What a watch answers, piece by piece."""

    def __init__(self, events: Watch) -> None:
        self._events = events

    async def iter_any(self) -> AsyncIterator[bytes]:
        for event in self._events:
            if isinstance(event, KubeError):
                raise event
            yield json.dumps({"type": event[0], "object": event[1]}).encode() + b"\n"


class Script:
    """An API server that answers lists and watches one after the other."""

    def __init__(self, lists: list[Answer], watches: list[Watch]) -> None:
        self._lists, self._watches = lists, watches

    async def request(self, method: str, path: str, **options: object) -> bytes:
        answer = self._lists.pop(0)
        if isinstance(answer, KubeError):
            raise answer
        return json.dumps({"items": answer, "metadata": {"resourceVersion": "9"}}).encode()

    @asynccontextmanager
    async def stream(self, path: str, query: Mapping[str, str | int], silence_seconds: float) -> AsyncIterator[Body]:
        yield Body(self._watches.pop(0))


async def test_a_name_that_no_object_can_have_is_a_sentence_and_no_request() -> None:
    with pytest.raises(NotFound, match="is not a resource"):
        await Runs(Script([], []), "data").get("..")


async def seen(names: list[str], lists: list[Answer], watches: list[Watch]) -> tuple[list[Any], list[str]]:
    """What is told, and the troubles."""
    troubles: list[str] = []
    told = [
        (name, None if run is None else run.phase)
        async for name, run in follow(
            Runs(Script(lists, watches), "data"), names, lambda error: troubles.append(str(error))
        )
    ]
    return told, troubles


async def test_a_run_is_followed_to_its_end() -> None:
    told, troubles = await seen(
        ["a"],
        [[obj("a", "Queued", 1)]],
        [[("BOOKMARK", {"metadata": {"resourceVersion": "2"}}), ("MODIFIED", obj("a", "Running", 3)),
          ("MODIFIED", obj("b", "Failed", 4)), ("MODIFIED", obj("a", "Succeeded", 5))]],
    )  # fmt: skip
    assert told == [("a", "Queued"), ("a", "Running"), ("a", "Succeeded")]
    assert troubles == []


async def test_what_is_over_already_needs_no_watch() -> None:
    assert (await seen(["a"], [[obj("a", "Failed", 1)]], []))[0] == [("a", "Failed")]


async def test_several_are_followed_until_the_last_is_over() -> None:
    told, _ = await seen(
        ["a", "b"],
        [[obj("a", "Succeeded", 1), obj("b", "Running", 2), obj("c", "Running", 3)]],
        [[("MODIFIED", obj("b", "Failed", 4))]],
    )
    assert told == [("a", "Succeeded"), ("b", "Running"), ("b", "Failed")]


async def test_an_end_during_a_pause_of_the_watch_is_found_by_the_next_list() -> None:
    lists: list[Answer] = [
        [obj("a", "Running", 1)],
        [obj("a", "Running", 1)],
        Unreachable("no answer"),
        [obj("a", "Failed", 7)],
    ]
    told, troubles = await seen(["a"], lists, [[], [Expired("too old")]])
    assert told == [("a", "Running"), ("a", "Failed")]
    assert troubles == ["no answer"]


@pytest.mark.parametrize("phase", ["Running", "Cancelled"])
async def test_a_deletion_ends_it(phase: str) -> None:
    told, _ = await seen(["a"], [[obj("a", "Running", 1)]], [[("DELETED", obj("a", phase, 2))]])
    assert told[-1] == ("a", None if phase == "Running" else "Cancelled")
    told, _ = await seen(["a"], [[obj("a", "Running", 1)], []], [[]])
    assert told[-1] == ("a", None)


async def test_what_is_not_there_is_an_error() -> None:
    with pytest.raises(NotFound, match="There is no DbtRun a in the namespace data"):
        await seen(["a"], [[]], [])


async def test_a_right_that_is_missing_is_an_error() -> None:
    with pytest.raises(Forbidden):
        await seen(["a"], [Forbidden("refused")], [])


def test_the_kubeconfig_is_chosen_as_kubectl_does(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.touch()
    second.touch()
    usual = tmp_path / ".kube/config"
    assert kubeconfigs(Place(), {}, tmp_path) is None
    usual.parent.mkdir()
    usual.touch()
    assert kubeconfigs(Place(), {}, tmp_path) == str(usual)
    both = {"KUBECONFIG": f"{first}:{tmp_path / 'missing'}:{second}"}
    assert kubeconfigs(Place(), both, tmp_path) == f"{first}:{second}"
    assert kubeconfigs(Place(kubeconfig=str(second)), both, tmp_path) == str(second)
    with pytest.raises(Misconfigured, match="does not exist"):
        kubeconfigs(Place(kubeconfig=str(tmp_path / "missing")), both, tmp_path)


@pytest.mark.parametrize(
    ("context", "named", "found"),
    [(None, None, "team"), ("bare", None, "default"), ("other", None, "b"), ("other", "mine", "mine")],
)
async def test_the_namespace_is_that_of_the_context_unless_it_is_named(
    tmp_path: Path, context: str | None, named: str | None, found: str
) -> None:
    namespaces = {"c": {"namespace": "team"}, "other": {"namespace": "b"}, "bare": {}}
    file = kubeconfig(tmp_path, "http://127.0.0.1:9")
    config = json.loads(file.read_text())
    config["contexts"] = [
        {"name": name, "context": {"cluster": "c", "user": "u", **more}} for name, more in namespaces.items()
    ]
    file.write_text(json.dumps(config))
    async with connected(Place(str(file), context, named)) as (_, namespace):
        assert namespace == found
