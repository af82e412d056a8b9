"""The reconcile loop. Whatever happens wakes a uid; a woken uid is reconciled until it can wait.

One task per uid at a time, so nothing about an object ever races with itself, and what fails for one slows no other.
An object that fails is paused. Until the pause is over, only a change of its spec triggers another look.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Final, Protocol

from dbtrun.api import DbtRun, Phase, Status
from dbtrun.kube.retry import jittered
from dbtrun.values import Instant, backoff
from watcher.clock import Clock
from watcher.knowledge import Knowledge
from watcher.lifecycle.decide import OTHERS, Interest, decide, interest, may_wait
from watcher.lifecycle.decisions import Decision, Event, Wait, Write
from watcher.lifecycle.known import Known, remember
from watcher.lifecycle.policy import Policy
from watcher.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

MAX_STEPS: Final = 40
"""Decisions in a row for one object before it must pause: more than any honest path has."""
BACKOFF: Final = (1.0, 60.0)
"""Seconds: the first and the longest pause of an object whose reconcile fails."""
TOLD_EACH: Final = 10
"""Failures of an object from one Event to the next; the third failure causes the first Event."""
STUCK_SECONDS: Final = 300.0
"""A step that takes longer is logged: whatever it waits for has a shorter time-out, or a long queue before it."""
BEGUN_AT_ONCE: Final = 32
"""Objects whose work begins in one turn of the loop: thousands that wake together must not hold up the rest of it."""
FINISHED_AT_ONCE: Final = 8
"""Finished objects that are reconciled at a time: no one waits for them, and new runs must not wait behind them."""
CALM_SECONDS: Final = 1.0
"""Between two looks at whether starts still wait, while writes wait for them."""
RECONNECT: Final = 300.0
"""Seconds after which a connection is read again: a changed Secret is used even while the old token still works."""


class Mirror(Protocol):
    """Where the objects are known."""

    def get(self, uid: str) -> DbtRun | None: ...

    def rested(self, uid: str) -> int:
        """The number of the last attempt of an object that was finished and left alone; 0 for any other."""

    def __len__(self) -> int: ...


class Performer(Protocol):
    """What carries decisions out. It returns what is known afterwards, and keeps the mirror up to date."""

    async def perform(self, decision: Decision, run: DbtRun, known: Known) -> Known: ...

    def follow(self, run: DbtRun, wanted: Interest | None) -> None:
        """Tells the poller of the object's connection what to watch for it."""

    def crowded(self, uid: str) -> bool:
        """Whether starts of the object's connection wait for others."""

    def interrupt(self, uid: str) -> None:
        """What the object's owner wants has changed while it is being worked on."""

    def forget(self, uid: str) -> None:
        """The object is gone."""


@dataclass(slots=True)
class Entry:
    """What is kept for one uid between two looks."""

    task: asyncio.Task[None] | None = None
    timer: asyncio.TimerHandle | None = None
    woken: bool = False
    queued: bool = False
    failures: int = 0
    generation: int = 0
    """Of the object when it was last looked at."""
    connected_at: float = 0.0


class Reconciler:
    """Looks at every woken uid until it can wait. `wake` starts the work; `stop` lets what is under way finish."""

    def __init__(
        self,
        mirror: Mirror,
        knowledge: Knowledge,
        performer: Performer,
        clock: Clock,
        policy: Policy,
        metrics: Metrics | None = None,
        emit: Callable[[DbtRun, Event], None] = lambda _run, _event: None,
        reconnect: float = RECONNECT,
        typical: Callable[[DbtRun], timedelta | None] = lambda _run: None,
    ) -> None:
        """Makes one.

        Args:
            typical: how long a run like the object's usually takes; None: not known.
        """
        self._typical = typical
        self._reconnect = reconnect
        self._mirror = mirror
        self._knowledge = knowledge
        self._performer = performer
        self._clock = clock
        self._policy = policy
        self._metrics = metrics or Metrics()
        self._emit = emit
        self._entries: dict[str, Entry] = {}
        self._failing: set[str] = set()
        self._steps: dict[str, float] = {}
        """When the step that each uid is at began, monotonic seconds."""
        self._stuck: set[str] = set()
        self._moved_at = 0.0
        self._soon: deque[str] = deque()
        self._later: deque[str] = deque()
        """Finished objects."""
        self._finishing = 0
        self._begins: asyncio.Handle | None = None
        self._stopping = False
        self._contested: set[str] = set()
        self._put_off: dict[str, float] = {}
        """When a write that may wait was first decided upon, by the uid."""
        self._calm: asyncio.TimerHandle | None = None

    # ── reasons to look ──

    def wake(self, uid: str) -> None:
        """Something about this object has changed."""
        entry = self._entries.get(uid)
        if entry is None:
            entry = self._entries[uid] = Entry()
            self._knowledge.meet(uid, self._mirror.rested(uid))
        entry.woken = True
        if self._pausing(uid, entry):
            return
        if uid in self._steps and self._changed(uid, entry):
            self._performer.interrupt(uid)
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None
        if entry.task is None and not self._stopping:
            run = self._mirror.get(uid)
            finished = run is not None and run.status.final and not run.deleting
            # One that is no longer finished waits in both queues, and the first counts.
            if not (entry.queued and finished):
                (self._later if finished else self._soon).append(uid)
            entry.queued = True
            self._plan()

    # ── health ──

    def silent(self) -> float:
        """Seconds for which steps were under way and none ended; one that hangs does not show here."""
        return self._clock().mono - self._moved_at if self._steps else 0.0

    def oldest(self) -> float:
        """Seconds that the step which has been under way for longest has taken."""
        return self._clock().mono - min(self._steps.values()) if self._steps else 0.0

    def tell_stuck(self) -> None:
        """Logs each object once whose step does not come back."""
        now = self._clock().mono
        stuck = {uid for uid, began in self._steps.items() if now - began > STUCK_SECONDS}
        for uid in stuck - self._stuck:
            logger.warning(
                "The reconcile of an object has not returned for %.0f s.", STUCK_SECONDS, extra={"run": self._name(uid)}
            )
        self._stuck = stuck

    # ── whose turn it is ──

    def _plan(self) -> None:
        if self._begins is None:
            self._begins = asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        self._begins = None
        for _ in range(BEGUN_AT_ONCE):
            finished = not self._soon
            if finished and self._finishing >= FINISHED_AT_ONCE:
                return
            queue = self._later if finished else self._soon
            if not queue:
                return
            uid = queue.popleft()
            entry = self._entries.get(uid)
            if entry is None or not entry.queued or entry.task is not None or self._stopping:
                continue
            entry.queued = False
            self._finishing += finished
            entry.task = asyncio.create_task(self._work(uid, entry), name=f"reconcile {uid}")
            entry.task.add_done_callback(partial(self._ended, uid, entry, finished))
        self._plan()

    # ── looking ──

    async def stop(self, seconds: float) -> None:
        """Begins nothing new and waits for what is under way, so that no start is left without its answer."""
        self._stopping = True
        if self._calm is not None:
            self._calm.cancel()
        for entry in self._entries.values():
            if entry.timer is not None:
                entry.timer.cancel()
        tasks = [entry.task for entry in self._entries.values() if entry.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        for task in tasks:
            task.cancel()

    async def _work(self, uid: str, entry: Entry) -> None:
        self._metrics.active.inc()
        try:
            while entry.woken and not (self._stopping or self._pausing(uid, entry)):
                entry.woken = False
                self._metrics.reconciles.inc()
                try:
                    until = await self._settle(uid, entry)
                except Exception as error:  # noqa: BLE001 - whatever one object does, the others go on
                    self._failed(uid, entry, error)
                    continue
                entry.failures = 0
                self._failing.discard(uid)
                self._metrics.failing.set(len(self._failing))
                if until is not None:
                    self._look_at(uid, entry, until)
        finally:
            entry.task = None
            self._metrics.active.dec()
        # A wake during the last look found this task, and left the work to it.
        if entry.woken and not self._stopping:
            self.wake(uid)

    def _ended(self, uid: str, entry: Entry, finished: bool, task: asyncio.Task[None]) -> None:
        """Reports a task that died, or its object would be left alone for ever."""
        self._finishing -= finished
        self._plan()
        error = asyncio.CancelledError("cancelled from within") if task.cancelled() else task.exception()
        if error is not None and not self._stopping:
            self._failed(uid, entry, error)

    def _failed(self, uid: str, entry: Entry, error: BaseException) -> None:
        run = self._mirror.get(uid)
        entry.failures += 1
        pause = jittered(backoff(entry.failures, *BACKOFF))
        self._look_at(uid, entry, self._clock().mono + pause)
        self._failing.add(uid)
        self._metrics.failures.inc()
        self._metrics.failing.set(len(self._failing))
        # Our own exceptions explain themselves. The words of any other may hold anything, so they stay in the log.
        ours = type(error).__module__.startswith(("watcher.", "dbtrun."))
        told = {"run": self._name(uid), "failures": entry.failures, "again_in": round(pause, 1)}
        logger.warning("%s: %s", type(error).__name__, error, extra=told, exc_info=None if ours else error)
        if run is not None and entry.failures % TOLD_EACH == 3:
            why = str(error) if ours else type(error).__name__
            message = f"It failed {entry.failures} times in a row and is retried: {why}"
            self._emit(run, Event("Warning", "ReconcileFailed", message))

    def _look_at(self, uid: str, entry: Entry, until: float) -> None:
        if not self._stopping:
            wait = max(0.0, until - self._clock().mono)
            entry.timer = asyncio.get_running_loop().call_later(wait, self._due, uid, entry)

    def _due(self, uid: str, entry: Entry) -> None:
        entry.timer = None
        self.wake(uid)

    def _pausing(self, uid: str, entry: Entry) -> bool:
        """Whether the object is paused after a failure. A change of its spec ends the pause."""
        return entry.failures > 0 and entry.timer is not None and not self._changed(uid, entry)

    def _changed(self, uid: str, entry: Entry) -> bool:
        run = self._mirror.get(uid)
        return run is None or run.metadata.generation != entry.generation

    async def _settle(self, uid: str, entry: Entry) -> float | None:
        """Decides and acts until the object can wait: until when (monotonic seconds)."""
        for _ in range(MAX_STEPS):
            run = self._mirror.get(uid)
            if run is None:
                self._forget(uid)
                return None
            now = self._clock()
            entry.generation = run.metadata.generation
            known = self._updated(run, entry, now)
            wanted = interest(run, known, now, self._policy)
            # While an object connects again, its former account goes on polling for it.
            if known.account_id is not None or wanted is None:
                self._performer.follow(run, wanted)
            decision = decide(run, known, now, self._policy)
            # What may wait does so while runs wait to be started, but not for long.
            if may_wait(run, decision, self._policy) and self._performer.crowded(uid):
                until = self._put_off.setdefault(uid, now.mono) + self._policy.news_grace
                if until > now.mono:
                    self._await_calm()
                    return until
            self._put_off.pop(uid, None)
            if isinstance(decision, Wait):
                contested = decision.why == OTHERS
                # Once for each object that two watchers serve.
                if contested and uid not in self._contested:
                    logger.warning(OTHERS, extra={"run": str(run)})
                (self._contested.add if contested else self._contested.discard)(uid)
                self._metrics.contested.set(len(self._contested))
                return decision.until
            await self._act(decision, run, entry)
            after = self._mirror.get(uid)
            if self._stopping and (after is None or after.status.phase is not Phase.SUBMITTING):
                return None  # a claim without its answer would have to be resolved by the next watcher
        raise RestlessObject(f"{MAX_STEPS} decisions in a row did not reach a stable state")

    def _forget(self, uid: str) -> None:
        """The object is gone."""
        self._entries.pop(uid, None)
        self._knowledge.forget(uid)
        self._failing.discard(uid)
        self._contested.discard(uid)
        self._put_off.pop(uid, None)
        self._performer.forget(uid)

    def _updated(self, run: DbtRun, entry: Entry, now: Instant) -> Known:
        """What is known of the object as it is now; its connection is read again after a while."""
        known = self._knowledge.of(run.uid)
        if known.account_id is not None and now.mono - entry.connected_at > self._reconnect:
            known = replace(known, account_id=None)
        known = remember(run, known, now)
        phase = run.status.phase
        # An estimate is made once for each run, so that it does not move while someone looks at it.
        if phase is not None and phase.live and run.status.estimated_completion_time is None:
            typical = self._typical(run)
            known = known if typical == known.typical else replace(known, typical=typical)
        self._knowledge.keep(run.uid, known)
        return known

    def _await_calm(self) -> None:
        if self._calm is None and self._put_off and not self._stopping:
            self._calm = asyncio.get_running_loop().call_later(CALM_SECONDS, self._look_for_calm)

    def _look_for_calm(self) -> None:
        self._calm = None
        for uid in [uid for uid in self._put_off if not self._performer.crowded(uid)]:
            self.wake(uid)
        self._await_calm()

    async def _act(self, decision: Decision, run: DbtRun, entry: Entry) -> None:
        name = type(decision).__name__
        self._metrics.decisions.labels(name).inc()
        before = self._knowledge.of(run.uid)
        began = self._clock().mono
        if not self._steps:
            self._moved_at = began
        self._steps[run.uid] = began
        try:
            known = await self._performer.perform(decision, run, before)
        except Exception:
            if isinstance(decision, Write):
                self._knowledge.keep(run.uid, replace(self._knowledge.of(run.uid), unwritten=True))
            raise
        finally:
            del self._steps[run.uid]
            self._moved_at = self._clock().mono
        if isinstance(decision, Write):
            known = replace(known, unwritten=False)
        if known.account_id is not None and before.account_id is None:
            entry.connected_at = self._clock().mono
        self._knowledge.learn(run.uid, before, known)
        logger.debug(name, extra={"run": str(run)})
        after = self._mirror.get(run.uid)
        if after is not None:
            _log_transition(run, after.status)
        elif isinstance(decision, Write):
            _log_transition(run, decision.status)  # finished, and put aside

    def _name(self, uid: str) -> str:
        return str(self._mirror.get(uid) or uid)


class RestlessObject(Exception):
    """The core decided without end for an object: a defect, contained by a pause."""


def _log_transition(run: DbtRun, after: Status) -> None:
    """Logs a transition: what became of which run, and why."""
    if after.phase is None or (after.phase, after.reason) == (run.status.phase, run.status.reason):
        return
    attempt = after.attempt
    told = {
        "run": str(run),
        "attempt": attempt and attempt.number,
        "run_id": after.run_id,
        "phase": after.phase.value,
        "reason": after.reason and after.reason.value,
    }
    logger.info("%s (%s): %s", after.phase, after.reason, after.message, extra=told)
