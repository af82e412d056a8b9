"""An API server that does not answer is asked again: only with requests that may be repeated."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

from airflow_trigger.cluster import QuotaExceeded, Unreachable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

FIRST_PAUSE: Final = 0.2
LONGEST_PAUSE: Final = 10.0


async def patiently(ask: Callable[[], Awaitable[T]], seconds: float) -> T:
    """The answer, asked for until there is one or `seconds` have passed.

    Raises:
        QuotaExceeded: at once, for that may last much longer.
        ClusterError: of the last answer; Unreachable: there was none in time.
    """
    clock = asyncio.get_running_loop().time
    ends, pause = clock() + seconds, FIRST_PAUSE
    while True:
        try:
            return await ask()
        except QuotaExceeded:
            raise
        except Unreachable as error:
            pause = max(pause, error.retry_after)
            if clock() + pause > ends:
                raise
        await asyncio.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE)
