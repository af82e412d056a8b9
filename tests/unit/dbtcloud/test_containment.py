"""An exception that nobody foresaw stays with the connection that it came from."""

from __future__ import annotations

import asyncio
import logging

import pytest

from dbtrun.api import Reason
from tests.unit.dbtcloud import account
from watcher.dbtcloud import errors
from watcher.dbtcloud.containment import REPEAT_SECONDS, Containment


class Scene:
    def __init__(self) -> None:
        self.now = 0.0
        self.counted: list[Reason] = []
        self.containment = Containment(
            account.CONNECTION, lambda: ("b/two", "a/one"), lambda: self.now, self.counted.append
        )

    def meet(self, error: BaseException) -> errors.DbtCloudError:
        with pytest.raises(errors.DbtCloudError) as caught, self.containment.contain("poll"):
            raise error
        return caught.value


def told(caplog: pytest.LogCaptureFixture, level: int) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno == level]


@pytest.mark.parametrize(
    "error", [RecursionError("x"), MemoryError(), OSError(5, "x"), ExceptionGroup("x", [OSError()])]
)
async def test_an_unforeseen_exception_is_a_fault_of_the_connection(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene()
    fault = scene.meet(error)
    assert (fault.reason, fault.not_sent, fault.final) == (Reason.SERVER_ERROR, False, False)
    assert scene.containment.reason is Reason.SERVER_ERROR
    assert type(error).__name__ in fault.message
    for level in (logging.WARNING, logging.ERROR):
        (record,) = told(caplog, level)
        assert vars(record)["connection"] == "cloud.getdbt.com, account 4242"
        assert vars(record)["objects"] == ["a/one", "b/two"]
    assert "Traceback" in vars(told(caplog, logging.ERROR)[0])["trace"]


async def test_a_traceback_is_logged_once_for_its_kind_and_holds_no_token(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    for _ in range(3):
        scene.meet(RuntimeError(f"Illegal header Token {account.SECRET}"))
        with scene.containment.contain("poll"):
            scene.now += 2 * REPEAT_SECONDS
    assert len(told(caplog, logging.ERROR)) == 1
    assert len(told(caplog, logging.WARNING)) == 3
    assert account.SECRET not in str([vars(record) for record in caplog.records])
    scene.meet(ValueError("another kind"))
    assert len(told(caplog, logging.ERROR)) == 2


async def test_the_same_reason_is_counted_each_time_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    for _ in range(100):
        scene.meet(errors.Unreachable("gone"))
        scene.now += REPEAT_SECONDS
    assert len(told(caplog, logging.WARNING)) == 1
    assert scene.counted == [Reason.UNREACHABLE] * 100
    scene.meet(errors.Unauthorized("no"))
    assert len(told(caplog, logging.WARNING)) == 2


async def test_a_connection_that_answers_now_and_then_is_logged_seldom(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    for _ in range(100):
        scene.meet(errors.Unreachable("gone"))
        with scene.containment.contain("poll"):
            scene.now += 1.0
    assert len(told(caplog, logging.WARNING)) == 1


async def test_what_is_about_one_object_is_no_fault_of_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene()
    scene.meet(errors.JobNotFound("no such job"))
    assert (scene.containment.reason, scene.counted, caplog.records) == (None, [], [])


async def test_an_answer_ends_the_fault(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    scene = Scene()
    scene.meet(errors.Unreachable("gone"))
    for _ in range(2):
        with scene.containment.contain("poll"):
            pass
    assert scene.containment.reason is None
    assert [record.message for record in told(caplog, logging.INFO)] == ["dbt Cloud can be used again."]


async def test_a_cancellation_from_within_is_contained_and_one_of_the_task_is_not() -> None:
    scene = Scene()
    assert "CancelledError" in scene.meet(asyncio.CancelledError()).message

    async def wait() -> None:
        with scene.containment.contain("poll"):
            await asyncio.sleep(60)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
