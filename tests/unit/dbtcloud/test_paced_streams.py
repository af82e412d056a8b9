"""Whether an idle connection to dbt Cloud can be used again: the pool asks before each request."""

from __future__ import annotations

import socket
from typing import Any

import httpcore
import pytest

from watcher.dbtcloud.turns import PacedBackend, Turns


class Stream(httpcore.AsyncNetworkStream):
    """A stream of a network that answers slowly what is asked of it, and counts that."""

    def __init__(self, connection: socket.socket | None) -> None:
        self._connection = connection
        self.asked: list[str] = []

    def get_extra_info(self, info: str) -> Any:
        self.asked.append(info)
        return self._connection if info == "socket" else "the network's"


class Network(httpcore.AsyncMockBackend):
    """A network with one stream."""

    def __init__(self, stream: Stream) -> None:
        super().__init__([])
        self._stream = stream

    async def connect_tcp(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        return self._stream


async def paced(stream: Stream) -> httpcore.AsyncNetworkStream:
    return await PacedBackend(Network(stream), Turns(), "owner").connect_tcp("dbt", 443)


async def test_a_connection_is_readable_when_something_or_its_end_has_come() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = await paced(Stream(ours))
        assert stream.get_extra_info("is_readable") is False
        theirs.close()
        assert stream.get_extra_info("is_readable") is True
    assert stream.get_extra_info("is_readable") is True, "a closed one has ended"


async def test_the_socket_is_looked_up_once() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        inner = Stream(ours)
        stream = await paced(inner)
        for _ in range(3):
            stream.get_extra_info("is_readable")
    assert inner.asked == ["socket"]


@pytest.mark.parametrize(("connection", "info"), [(None, "is_readable"), (None, "ssl_object")])
async def test_anything_else_is_the_network_s_to_say(connection: socket.socket | None, info: str) -> None:
    assert (await paced(Stream(connection))).get_extra_info(info) == "the network's"
