"""The attackers' side of a connection."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from tests.hostile.wire import Wire
from tests.patience import patience


async def test_a_client_that_is_killed_within_a_body_ends_the_request_and_not_the_server() -> None:
    reader = asyncio.StreamReader()
    reader.feed_data(b'POST /jobs/5/run/ HTTP/1.1\r\nContent-Length: 20\r\n\r\n{"cause"')
    reader.feed_eof()
    async with asyncio.timeout(patience(10)):
        assert await Wire(reader, cast(Any, None)).request() is None
