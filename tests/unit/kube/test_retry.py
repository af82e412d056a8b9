"""How long an API server that does not answer is asked."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

import pytest

from dbtrun.kube.errors import NotFound, Unreachable
from dbtrun.kube.retry import patiently

if TYPE_CHECKING:
    from dbtrun.kube.errors import KubeError

pytestmark = pytest.mark.looptime


class Server:
    """Gives these errors, then the answer; remembers when it was asked."""

    def __init__(self, *errors: KubeError) -> None:
        self._errors = list(errors)
        self.asked: list[float] = []

    async def ask(self) -> str:
        self.asked.append(asyncio.get_running_loop().time())
        if self._errors:
            raise self._errors.pop(0)
        return "here"

    @property
    def pauses(self) -> list[float]:
        return [round(later - earlier, 3) for earlier, later in itertools.pairwise(self.asked)]


async def test_an_answer_is_given_at_once() -> None:
    server = Server()
    assert await patiently(server.ask, 60.0) == "here"
    assert len(server.asked) == 1


async def test_pauses_grow_to_ten_seconds() -> None:
    server = Server(*[Unreachable("away")] * 8)
    assert await patiently(server.ask, 60.0) == "here"
    longest = [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    for pause, most in zip(server.pauses, longest, strict=True):
        assert most / 2 - 0.001 <= pause <= most + 0.001


async def test_a_pause_that_the_server_asks_for_is_kept() -> None:
    server = Server(Unreachable("busy", retry_after=7.0))
    await patiently(server.ask, 60.0)
    assert server.pauses == [7.0]


async def test_it_is_given_up_in_time() -> None:
    server = Server(*[Unreachable("away")] * 100)
    with pytest.raises(Unreachable, match="away"):
        await patiently(server.ask, 15.0)
    assert 5.0 < server.asked[-1] - server.asked[0] <= 15.0


async def test_any_other_error_is_final() -> None:
    server = Server(NotFound("no such object"))
    with pytest.raises(NotFound):
        await patiently(server.ask, 60.0)
    assert len(server.asked) == 1
