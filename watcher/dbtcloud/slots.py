"""A limit of runs that are live in an account at once: a team with 25 run slots fills 25 and lets the others wait here.

dbt Cloud counts the runs, those of other tools and people included. What its lists do not show yet is held here: from
the moment an object may start until its run is listed, or is over. Nothing is remembered across a restart, and nothing
needs to be: the first count comes before the first start.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from dbtrun.fair import NO_WEIGHTS, Applicant, FairQueue
from watcher.clock import Clock
from watcher.dbtcloud.channel import PAGE_SIZE
from watcher.dbtcloud.contact import Contact
from watcher.dbtcloud.errors import DbtCloudError
from watcher.dbtcloud.listener import Listener
from watcher.lifecycle.facts import Place

COUNT_SECONDS: Final = 0.5
"""From one count to the next while an object waits: how late a free slot is noticed."""
TELL_SECONDS: Final = 10.0
"""Between two looks at the places of those that wait; each is a status write at most."""
TELL_LATER: Final = 0.01
"""Seconds that each object that waits adds to this: the look takes a microsecond for each."""
UNUSED_SECONDS: Final = 10.0
"""A slot that was granted and not claimed goes to the next: the object was suspended, or changed its mind."""
HELD_SECONDS: Final = 900.0
"""A claimed slot whose run never shows comes back at the latest after this: longer than any search for a lost run."""
LISTED_SECONDS: Final = 30.0
"""After this a run that is known and not among the newest live ones is taken for listed further down, or over."""
OTHERS: Final = 5
"""A count lists so many more of the newest live runs than there are starts to recognise: others start runs, too."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveRuns:
    """How many runs of an account are not over, and the ids and the markers of the newest of them."""

    count: int
    newest: frozenset[int]
    markers: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Hold:
    until: float
    """Monotonic seconds at which the slot comes back if nothing more is heard."""
    marker: str = ""
    """Of the start that is claimed; empty: none is, or it has no marker."""
    run_id: int | None = None
    known_at: float = 0.0
    """When the run's id was learnt."""

    def is_over(self, live: LiveRuns | None, asked: float) -> bool:
        """Whether the slot comes back: the count, asked for at this time, contains its run, or nobody uses it."""
        known = self.run_id is not None and self.known_at <= asked
        # Whether a list shows a run at once is undocumented.
        listed = live is None or self.run_id in live.newest or self.known_at + LISTED_SECONDS <= asked
        # The answer to a start can come later than the run in a list, which counts it then.
        counted = live is not None and self.marker in live.markers
        return (known and listed) or counted or self.until <= asked


class Slots:
    """The run slots of one connection. `run()` is its task; everything else is called on the same loop.

    Args:
        limit: live runs of the account at which nothing more is started.
        live: counts them and lists so many of the newest; None: dbt Cloud cannot, so `followed` is taken.
        followed: how many live runs this watcher follows.
        listener: hears of places and grants, and why the runs cannot be counted.
        users: the objects that use the connection.
        weights: turns of the namespaces.
    """

    def __init__(
        self,
        limit: int,
        live: Callable[[int], Awaitable[LiveRuns | None]],
        followed: Callable[[], int],
        listener: Listener,
        users: Callable[[], Collection[str]],
        clock: Clock,
        weights: Mapping[str, int] = NO_WEIGHTS,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.limit = limit
        self._live = live
        self._followed = followed
        self._listener = listener
        self._users = users
        self._clock = clock
        self._contact = Contact(jitter)
        self._queue = FairQueue(weights)
        self._holds: dict[str, _Hold] = {}
        self._told: dict[str, int] = {}
        self._count: int | None = None
        """Live runs at the last count; None: there is no recent one."""
        self._wanted = asyncio.Event()
        self._tell_at = 0.0
        self._blind = False

    @property
    def waiting(self) -> int:
        """Objects that wait for a slot."""
        return len(self._queue)

    @property
    def waiting_in(self) -> dict[str, int]:
        """The same by namespace."""
        return self._queue.by_namespace

    def holds(self, uid: str) -> bool:
        """Whether the object has a slot that dbt Cloud's lists may not show yet."""
        return uid in self._holds

    @property
    def used(self) -> int | None:
        """Slots that are taken; None: not counted yet."""
        return None if self._count is None else self._count + len(self._holds)

    def ask(self, applicant: Applicant) -> Place | None:
        """Asks for a slot, or for the place in the line; None: the object holds a slot and may start."""
        if applicant.uid in self._holds:
            return None
        self._queue.push(applicant)
        self._wanted.set()
        # The place as it was last reported: one that moves with each look would be written with each look.
        if self._count is not None and applicant.uid not in self._told:
            self._told[applicant.uid] = rounded(self._queue.ahead(applicant.uid) + 1)
        return Place(within=self._told.get(applicant.uid), limit=self.limit, priority=applicant.priority)

    def claimed(self, uid: str, marker: str = "") -> None:
        """The start is recorded as claimed: the slot is held until its run is known."""
        hold = self._holds.get(uid)
        if hold is not None:
            hold.until = self._now() + HELD_SECONDS
            hold.marker = marker

    def known(self, uid: str, run_id: int) -> None:
        """The start has become this run: the slot is held until dbt Cloud lists the run."""
        hold = self._holds.get(uid)
        if hold is not None and hold.run_id is None:
            # A count that was asked for before this cannot be taken to contain the run.
            hold.run_id, hold.known_at = run_id, self._now()

    def leave(self, uid: str) -> None:
        """The object waits for nothing and holds nothing any more; unknown ones are no error."""
        self._queue.discard(uid)
        self._holds.pop(uid, None)
        self._told.pop(uid, None)

    async def run(self) -> None:
        """Counts and grants until cancelled; nothing is counted while nobody waits."""
        while True:
            if not self._queue:
                self._count = None
                self._wanted.clear()
                await self._wanted.wait()
            began = self._now()
            try:
                live = await self._live(min(PAGE_SIZE, len(self._holds) + OTHERS))
            except DbtCloudError as error:
                self._count = None
                trouble = self._contact.failed(error, self._clock())
                if trouble is not None:
                    self._listener.troubled(self._users(), trouble)
            else:
                self._grant(live, began)
            await asyncio.sleep(max(began + COUNT_SECONDS, self._contact.retry_at) - self._now())

    def _grant(self, live: LiveRuns | None, asked: float) -> None:
        """Grants the slots that are free by the count that was asked for at this time, and reports the places."""
        if self._contact.troubled:
            self._listener.answering(self._users())
        self._contact.answered()
        if live is None and not self._blind:
            log.warning(
                "dbt Cloud does not report how many runs of the account are live: only runs that this "
                "watcher follows are counted."
            )
        self._blind = live is None
        self._holds = {uid: hold for uid, hold in self._holds.items() if not hold.is_over(live, asked)}
        self._count = self._followed() if live is None else live.count
        while self._queue and self._count + len(self._holds) < self.limit:
            uid = self._queue.pop().uid
            # Held from here on and not from the start: otherwise the next count would give it to another object.
            self._holds[uid] = _Hold(self._now() + UNUSED_SECONDS)
            self._told.pop(uid, None)
            self._listener.placed(uid, None)
        now = self._now()
        if now < self._tell_at:
            return
        # Less often with a longer line: each place that changes is a write of a status.
        self._tell_at = now + TELL_SECONDS + TELL_LATER * len(self._queue)
        for ahead, applicant in enumerate(self._queue.order()):
            place = rounded(ahead + 1)
            # Only a place that has changed by enough is worth a write.
            if self._told.get(applicant.uid) != place:
                self._told[applicant.uid] = place
                self._listener.placed(applicant.uid, Place(within=place, limit=self.limit, priority=applicant.priority))

    def _now(self) -> float:
        return self._clock().mono


def rounded(place: int) -> int:
    """A place in line as it is reported: exact up to 10, then within the first 20, 50, 100, 200, …"""
    if place <= 10:
        return place
    scale = 1
    while place > 10 * scale:
        scale *= 10
    return next(step * scale for step in (2, 5, 10) if place <= step * scale)
