"""A coroutine run to its end by code that cannot await: an operator on a worker.

It gets a thread of its own. Airflow ends a task by raising in the main thread (SIGTERM, SIGALRM): in the middle of an
event loop that may be swallowed, while waiting for a thread it is not. And `on_kill`, which runs inside such a signal,
can run a coroutine of its own beside the interrupted one.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")

# Airflow 3 sends SIGKILL 5 s after its SIGTERM.
JOIN_SECONDS: Final = 3.0


def blocking(work: Coroutine[Any, Any, T], seconds: float | None = None) -> T:
    """The coroutine's result. If this thread is interrupted, or `seconds` pass, the coroutine is cancelled.

    Raises:
        TimeoutError: `seconds` have passed.
    """
    outcome: Future[T] = Future()
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[T]]] = Future()
    context = contextvars.copy_context()
    # A daemon: a coroutine that does not end must not keep the worker's process alive.
    thread = threading.Thread(target=context.run, args=(_serve, work, started, outcome), name="dbtrun", daemon=True)
    try:
        thread.start()  # a signal may come while it waits for the thread, too
        return outcome.result(seconds)
    except BaseException:
        # The coroutine runs, or is about to; or the thread never came, or its loop has just ended.
        with suppress(TimeoutError, RuntimeError):
            loop, task = started.result(JOIN_SECONDS)
            if not outcome.done():
                loop.call_soon_threadsafe(task.cancel)
        raise
    finally:
        # The signal may have come before the thread was there, and join() raises for such a thread.
        if thread.ident is not None:
            thread.join(JOIN_SECONDS)


def _serve(
    work: Coroutine[Any, Any, T],
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[T]]],
    outcome: Future[T],
) -> None:
    async def main() -> T:
        task = asyncio.ensure_future(work)
        started.set_result((asyncio.get_running_loop(), task))
        return await task

    try:
        outcome.set_result(asyncio.run(main()))
    except BaseException as error:  # noqa: BLE001 - the thread that waits gets it
        outcome.set_exception(error)
