"""How requests are tried again: only those that may be repeated, with growing pauses."""

from __future__ import annotations

import asyncio
import random
from itertools import count
from typing import TYPE_CHECKING, Final, TypeVar

from dbtrun.kube.errors import QuotaExceeded, Unreachable
from dbtrun.values import backoff

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

T = TypeVar("T")

FIRST_PAUSE: Final = 0.2
LONGEST_PAUSE: Final = 10.0


def jittered(pause: float) -> float:
    """Between half of the pause and all of it, so that clients of a restarted API server do not come back in step."""
    return pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter


def pauses(first: float, longest: float) -> Iterator[float]:
    """Pauses in seconds that grow from `first` to `longest`, with jitter."""
    return (jittered(backoff(failures, first, longest)) for failures in count(1))


async def patiently(ask: Callable[[], Awaitable[T]], seconds: float) -> T:
    """The answer, asked for until there is one or `seconds` have passed.

    Raises:
        QuotaExceeded: at once, for that may last much longer.
        KubeError: of the last answer; Unreachable: there was none in time.
    """
    clock = asyncio.get_running_loop().time
    ends = clock() + seconds
    for growing in pauses(FIRST_PAUSE, LONGEST_PAUSE):
        try:
            return await ask()
        except QuotaExceeded:  # which is an Unreachable
            raise
        except Unreachable as error:
            pause = max(growing, error.retry_after)
            # The error now, and not after a pause that leads to nothing.
            if clock() + pause > ends:
                raise
        await asyncio.sleep(pause)
    raise AssertionError("pauses never end")
