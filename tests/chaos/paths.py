"""Every way through the life of a DbtRun that has side effects: what people do, and how it must end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from dbtrun.api import DeletionPolicy, Phase, Reason, Retry, RetryStrategy, Reuse
from tests.chaos.world import World
from watcher.simulator.faults import Drop, Hang, LateCommit, ListLag, RateLimit, Reply

ONE_RETRY: Final = Retry(limit=1, backoff_seconds=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class Path:
    """What people do with one object, and the one right end of it."""

    play: Callable[[World], Awaitable[None]]
    ends: Phase
    journal: tuple[str, ...]
    """What dbt Cloud does when nothing goes wrong."""
    attempts: int = 1
    gone: bool = False
    alive: int = 0
    """Runs that are meant to go on."""
    twins: int = 0
    """Duplicates, at most, that must be found and cancelled: where dbt Cloud breaks what is assumed of it."""
    late: bool = False
    """Whether a start may show long after it was sent."""


async def _start(world: World) -> None:
    world.create("success")


async def _keep_artifacts(world: World) -> None:
    world.create("success", artifacts=("run_results.json", "dbtrun/results.json", "manifest.json"))
    for told in (await world.phase(Phase.SUCCEEDED)).status.artifacts[:2]:
        assert told.key in world.objects.files[str(told.config_map)]


async def _fail(world: World) -> None:
    world.create("failure")


async def _keep(world: World) -> None:
    world.create("success", artifacts=("run_results.json",))


async def _resume_theirs(world: World) -> None:
    run_id = await world.elsewhere("failure")
    await world.finish(run_id, status=20)
    world.create("failure", retry_of=run_id)


async def _lost_answer(world: World) -> None:
    world.fault(Drop(when="after"), "start")
    world.create("success")


async def _lost_answer_and_lagging_list(world: World, job: str = "success") -> None:
    world.fault(Drop(when="after"), "start")
    world.fault(ListLag(seconds=60), "list-runs", times=None)
    world.create(job)


async def _lost_request(world: World) -> None:
    world.fault(Drop(when="before"), "start")
    world.create("success")


async def _late_commit(world: World) -> None:
    world.fault(LateCommit(seconds=60), "start")
    world.create("success")


async def _hang(world: World) -> None:
    world.fault(Hang(commit=True), "start")
    world.create("success")


async def _server_error_after_commit(world: World) -> None:
    world.fault(Reply(status=502, body="html", commit=True), "start")
    world.create("success")


async def _rate_limit(world: World) -> None:
    world.fault(RateLimit(cooldown=60), "start")
    world.create("success")


async def _late_twin(world: World) -> None:
    world.fault(LateCommit(seconds=world.policy.quiet_period + 60), "start")
    world.create("endless")
    await world.phase(Phase.RUNNING)

    await world.until(lambda: not world.swept_later(), "the sweep for a twin is over")
    run_id = (await world.phase(Phase.RUNNING)).status.run_id
    assert run_id is not None
    await world.finish(run_id)


async def _resume(world: World) -> None:
    world.create("flaky", retry=ONE_RETRY)


async def _resume_with_lost_answer(world: World) -> None:
    world.fault(Drop(when="after"), "retry")
    world.create("flaky", retry=ONE_RETRY)


async def _resume_refused(world: World) -> None:
    world.create("flaky", retry=ONE_RETRY)
    await world.phase(Phase.PENDING, reason=Reason.RETRY_BACKOFF)
    await world.elsewhere("flaky")


async def _fresh(world: World) -> None:
    world.create("flaky", retry=Retry(limit=1, backoff_seconds=30, strategy=RetryStrategy.FRESH))


async def _adopt(world: World) -> None:
    run_id = await world.elsewhere("endless")
    world.create(None, run_id=run_id)
    await world.phase(Phase.RUNNING)
    await world.finish(run_id)


async def _adopt_and_cancel(world: World) -> None:
    world.create(None, run_id=await world.elsewhere("endless"))
    await world.phase(Phase.RUNNING)
    world.edit(cancel=True)


async def _adopt_and_delete(world: World) -> None:
    world.create(None, run_id=await world.elsewhere("endless"))
    await world.phase(Phase.RUNNING)
    world.delete()


async def _reuse(world: World) -> None:
    run_id = await world.elsewhere("endless")
    world.create("endless", reuse=Reuse.RUNNING)
    await world.phase(Phase.RUNNING)
    await world.finish(run_id)


async def _cancel(world: World) -> None:
    world.create("endless")
    await world.phase(Phase.RUNNING)
    world.edit(cancel=True)


async def _cancel_with_lost_answer(world: World) -> None:
    world.fault(Drop(when="before"), "cancel")
    await _cancel(world)


async def _cancel_while_looking_up(world: World) -> None:
    await _lost_answer_and_lagging_list(world, "endless")
    await world.phase(Phase.SUBMITTING, Phase.PENDING, reason=Reason.LOOKING_UP)
    world.edit(cancel=True)


async def _delete(world: World) -> None:
    world.create("endless")
    await world.phase(Phase.RUNNING)
    world.delete()


async def _delete_while_looking_up(world: World) -> None:
    await _lost_answer_and_lagging_list(world, "endless")
    await world.phase(Phase.SUBMITTING, Phase.PENDING, reason=Reason.LOOKING_UP)
    world.delete()


async def _orphan(world: World) -> None:
    world.create("endless", deletion_policy=DeletionPolicy.ORPHAN)
    await world.phase(Phase.RUNNING)
    world.delete()


async def _active_deadline(world: World) -> None:
    world.create("endless", active_deadline_seconds=60)


async def _queue_deadline(world: World) -> None:
    await world.elsewhere("endless")
    world.create("endless", queue_deadline_seconds=60)


async def _ttl(world: World) -> None:
    world.create("success", ttl_seconds_after_finished=60)


async def _suspend(world: World) -> None:
    world.create("success", suspend=True)
    await world.phase(Phase.PENDING, reason=Reason.SUSPENDED)
    world.edit(suspend=False)


START: Final = ("start",)
SUCCEEDED: Final = Phase.SUCCEEDED
CANCELLED: Final = Phase.CANCELLED

PLAIN: Final[dict[str, Path]] = {
    "start": Path(play=_start, ends=SUCCEEDED, journal=START),
    "start, artifacts kept": Path(play=_keep_artifacts, ends=SUCCEEDED, journal=START),
    "start that fails": Path(play=_fail, ends=Phase.FAILED, journal=START),
    "start, keep artifacts": Path(play=_keep, ends=SUCCEEDED, journal=START),
    "retry from failure": Path(play=_resume, ends=SUCCEEDED, journal=("start", "retry"), attempts=2),
    "retry from failure, refused": Path(
        play=_resume_refused, ends=SUCCEEDED, journal=("start", "ui", "start"), attempts=2
    ),
    "retry of somebody else's run": Path(play=_resume_theirs, ends=Phase.FAILED, journal=("ui", "retry")),
    "retry afresh": Path(play=_fresh, ends=SUCCEEDED, journal=("start", "start"), attempts=2),
    "adopt": Path(play=_adopt, ends=SUCCEEDED, journal=("ui",)),
    "adopt, cancel": Path(play=_adopt_and_cancel, ends=CANCELLED, journal=("ui", "cancel")),
    "adopt, delete": Path(play=_adopt_and_delete, ends=Phase.RUNNING, journal=("ui",), gone=True, alive=1),
    "reuse": Path(play=_reuse, ends=SUCCEEDED, journal=("ui",)),
    "cancel": Path(play=_cancel, ends=CANCELLED, journal=("start", "cancel")),
    "delete": Path(play=_delete, ends=CANCELLED, journal=("start", "cancel"), gone=True),
    "delete, orphan": Path(play=_orphan, ends=Phase.RUNNING, journal=START, gone=True, alive=1),
    "active deadline": Path(play=_active_deadline, ends=Phase.TIMED_OUT, journal=("start", "cancel")),
    "queue deadline": Path(play=_queue_deadline, ends=Phase.TIMED_OUT, journal=("ui", "start", "cancel"), alive=1),
    "ttl": Path(play=_ttl, ends=SUCCEEDED, journal=START, gone=True),
    "suspend, then start": Path(play=_suspend, ends=SUCCEEDED, journal=START),
}
"""Where nothing goes wrong by itself."""

FAULTY: Final[dict[str, Path]] = {
    "start, answer lost": Path(play=_lost_answer, ends=SUCCEEDED, journal=START),
    "start, answer lost, list lags": Path(play=_lost_answer_and_lagging_list, ends=SUCCEEDED, journal=START, late=True),
    "start, request lost": Path(play=_lost_request, ends=SUCCEEDED, journal=START),
    "start, commit late": Path(play=_late_commit, ends=SUCCEEDED, journal=START, late=True),
    "start, hang": Path(play=_hang, ends=SUCCEEDED, journal=START),
    "start, 502 after commit": Path(play=_server_error_after_commit, ends=SUCCEEDED, journal=START),
    "start, rate limit": Path(play=_rate_limit, ends=SUCCEEDED, journal=START),
    "start, commit later than assumed": Path(
        play=_late_twin, ends=SUCCEEDED, journal=("start", "start", "cancel"), twins=1, late=True
    ),
    "retry from failure, answer lost": Path(
        play=_resume_with_lost_answer, ends=SUCCEEDED, journal=("start", "retry"), attempts=2
    ),
    "cancel, request lost": Path(play=_cancel_with_lost_answer, ends=CANCELLED, journal=("start", "cancel")),
    "cancel while looking up": Path(
        play=_cancel_while_looking_up, ends=CANCELLED, journal=("start", "cancel"), late=True
    ),
    "delete while looking up": Path(
        play=_delete_while_looking_up, ends=CANCELLED, journal=("start", "cancel"), gone=True, late=True
    ),
}
"""Where dbt Cloud fails once."""

PATHS: Final = PLAIN | FAULTY
