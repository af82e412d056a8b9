"""One client, one budget and one poller per connection, however many objects use it.

A connection is its value: a rotated token makes another one, which shares the account's budget, and the old one is
closed when nobody has used it for a while. So a new token heals everything without a restart.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import httpx

from dbtrun.api import Reason
from dbtrun.connection.secret import Connection
from dbtrun.fair import NO_WEIGHTS
from watcher.clock import Clock, system_clock
from watcher.dbtcloud.budget import BURST, REQUESTS_PER_MINUTE, UNPROVEN, Budget, Share
from watcher.dbtcloud.channel import TOTAL_SECONDS, Channel
from watcher.dbtcloud.client import Client
from watcher.dbtcloud.containment import Containment
from watcher.dbtcloud.hints import Hints, Looked
from watcher.dbtcloud.intake import Intake
from watcher.dbtcloud.ledger import READ_SECONDS, Ledger
from watcher.dbtcloud.listener import Listener
from watcher.dbtcloud.looks import Looks
from watcher.dbtcloud.poller import FEED_SECONDS, Poller
from watcher.dbtcloud.requests import Observe
from watcher.dbtcloud.slots import LiveRuns, Slots
from watcher.dbtcloud.starts import Starts
from watcher.dbtcloud.subscription import Subscription, managing
from watcher.lifecycle.facts import RunFacts

LINGER_SECONDS: Final = 300.0
"""How long an unused connection stays open: longer than any request that somebody may still be making with it."""
SWEEP_SECONDS: Final = 60.0
"""Between two looks for unused connections."""
CLAIMS_AT_ONCE: Final = 8
"""Claims under way. More would wait for a busy API server until all of them are too old to be sent."""

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Account:
    """What there is of one connection."""

    connection: Connection
    client: Client
    share: Share
    poller: Poller
    containment: Containment
    ledger: Ledger
    users: set[str] = field(default_factory=set)
    unused_since: float = 0.0
    """Monotonic seconds; counts while there are no users."""
    task: asyncio.Task[None] | None = None
    claiming: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CLAIMS_AT_ONCE))
    """Held from the right to send to the claim."""
    starts: Starts = field(default_factory=Starts)
    searches: Starts = field(default_factory=Starts)
    """The same for the searches that go before a start."""
    slots: Slots | None = None
    """None: the connection has no limit of live runs."""
    clock: Clock = system_clock
    looked: Looked = lambda _requests: None
    turned: Callable[[str], object] = lambda _uid: None
    """Told whose turn it is to have the steps of its run read."""
    subscription: Subscription | None = None
    """None: the watcher does not look after the connection's webhook."""
    looks: Looks = field(init=False)
    hints: Hints = field(init=False)

    def __post_init__(self) -> None:
        self.looks = Looks(self.share, self.turned, self.clock)
        self.hints = Hints(self.share, self.poller, self.ledger, self.clock, self.looked)

    async def run(self) -> None:
        """Polls, reads for the mirrors, and hands out run slots, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.poller.run())
            group.create_task(self.ledger.run())
            group.create_task(self.hints.run())
            group.create_task(self.looks.run())
            if self.slots is not None:
                group.create_task(self.slots.run())
            if self.subscription is not None:
                group.create_task(self.subscription.run())

    def follow(self, uid: str, run_id: int, interval: float, looks_from: float | None = None) -> None:
        """Polls this run for the object, and no other. From a time on, the object gets turns to look at its steps."""
        self.looks.want(uid, looks_from)
        if self.poller.follow(uid, run_id, interval) and self.slots is not None:
            self.slots.known(uid, run_id)

    def unfollow(self, uid: str) -> None:
        """Polls nothing for the object any more."""
        self.looks.want(uid, None)
        if self.poller.unfollow(uid):
            self.leave(uid)

    def leave(self, uid: str) -> None:
        """The object waits for no run slot and holds none."""
        if self.slots is not None:
            self.slots.leave(uid)

    @property
    def budget(self) -> Budget:
        """What its requests are spent from now."""
        return self.share.budget


class Accounts:
    """Hands out accounts. `run()` is the task that polls them; everything else is called on the same loop.

    Args:
        listener: hears what pollers and run slots report.
        requests_per_minute: for each (host, account), whatever the number of tokens.
        feed_seconds: between two looks at what finished on an account.
        request_seconds: from the first byte sent to the last one read.
        names_of: names of the objects with these uids, for the log.
        count: called with the connection's fault, for the metrics.
        observe: called with each request that has come to an end, for the metrics.
        late: called with the number of runs that dbt Cloud has listed too late for the mirrors.
        looked: called with the number of requests that hints cause.
        subscribed: called with what each look at a connection's webhook has found.
        elsewhere: called with the host and each finished run of an account that no object follows.
        transport: in place of the network, in tests.
        weights: turns of the namespaces, for starts and run slots.
    """

    def __init__(
        self,
        listener: Listener,
        *,
        requests_per_minute: int = REQUESTS_PER_MINUTE,
        burst: int = BURST,
        feed_seconds: float = FEED_SECONDS,
        request_seconds: float = TOTAL_SECONDS,
        linger: float = LINGER_SECONDS,
        names_of: Callable[[Iterable[str]], Iterable[str]] = tuple,
        count: Callable[[Reason], object] = lambda _reason: None,
        observe: Observe = lambda _sent: None,
        elsewhere: Callable[[str, RunFacts], object] = lambda _host, _run: None,
        late: Callable[[int], object] = lambda _runs: None,
        looked: Looked = lambda _requests: None,
        subscribed: Callable[[str], object] = lambda _state: None,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Clock = system_clock,
        weights: Mapping[str, int] = NO_WEIGHTS,
    ) -> None:
        self._weights = weights
        self._listener = listener
        self._rate = (requests_per_minute, burst)
        self._feed_seconds = feed_seconds
        self._request_seconds = request_seconds
        self._linger = linger
        self._names_of = names_of
        self._count = count
        self._observe = observe
        self._elsewhere = elsewhere
        self._late = late
        self._looked = looked
        self._subscribed = subscribed
        self._intake = Intake()
        self._transport = transport
        self._clock = clock
        self._accounts: dict[Connection, Account] = {}
        self._account_of: dict[str, Account] = {}
        self._budgets: dict[tuple[str, int], Budget] = {}
        self._group: asyncio.TaskGroup | None = None

    def __iter__(self) -> Iterator[Account]:
        """The accounts that are open, for metrics and health."""
        return iter(tuple(self._accounts.values()))

    def of(self, uid: str) -> Account | None:
        """The account that the uid works with."""
        return self._account_of.get(uid)

    def open(self, connection: Connection) -> Account | None:
        """The account of exactly this connection, if somebody uses it."""
        return self._accounts.get(connection)

    def use(self, uid: str, connection: Connection) -> Account:
        """The account that the uid works with from now on; the one that it used before no longer polls for it."""
        account = self._accounts.get(connection) or self._open(connection)
        if self._account_of.get(uid) is not account:
            self.release(uid)
            self._account_of[uid] = account
            account.users.add(uid)
        return account

    def release(self, uid: str) -> None:
        """The uid is done with dbt Cloud; unknown ones are no error."""
        account = self._account_of.pop(uid, None)
        if account is not None:
            account.unfollow(uid)
            account.ledger.remove(uid)
            account.leave(uid)
            account.users.discard(uid)
            account.unused_since = self._clock().mono

    async def run(self) -> None:
        """Polls until cancelled, then closes everything. A poller that fails by a fault of ours ends it."""
        try:
            async with asyncio.TaskGroup() as self._group:
                for account in self:
                    self._launch(account)
                while True:
                    await asyncio.sleep(SWEEP_SECONDS)
                    await self._sweep()
        finally:
            # An account that is opened from here on is not launched in a group that is ending.
            self._group = None
            for account in self:
                await self._close(account)

    async def _sweep(self) -> None:
        """Forgets the budgets that no account has, and closes the accounts that nobody uses."""
        used = {(account.connection.host, account.connection.account_id) for account in self}
        for key in self._budgets.keys() - used:
            if self._budgets[key].paused_until is None:  # a pause is remembered to its end
                del self._budgets[key]
        latest = self._clock().mono - self._linger
        for account in self:
            if not account.users and account.unused_since <= latest:
                log.info("closed %s, which nothing uses any more", account.connection)
                await self._close(account)

    def _open(self, connection: Connection) -> Account:
        def mono() -> float:
            return self._clock().mono

        # Documented: dbt Cloud limits an account, not a token. All connections to one share its budget.
        key = (connection.host, connection.account_id)
        budget = self._budgets.get(key)
        if budget is None:
            budget = self._budgets[key] = Budget(*self._rate, clock=mono)
        share = Share(budget, Budget(min(self._rate[0], UNPROVEN[0]), min(self._rate[1], UNPROVEN[1]), mono))
        client = Client(
            connection,
            share,
            transport=self._transport,
            clock=self._clock,
            total_seconds=self._request_seconds,
            intake=self._intake,
            heard=share.heard,
            observe=self._observe,
        )
        # Shared by all parts of the account, which report to the objects that use it at that time.
        users: set[str] = set()
        containment = Containment(connection, lambda: self._names_of(users), mono, self._count)
        poller = Poller(
            client,
            self._listener,
            lambda: tuple(users),
            name=str(connection),
            feed_seconds=self._feed_seconds,
            clock=self._clock,
            contain=containment.contain,
            elsewhere=partial(self._elsewhere, connection.host),
            # A poller that waits for a small budget that is being spent does not hang.
            heard_at=lambda: max(client.polled_at, share.budget.granted_at if share.budget.waiting else -math.inf),
        )
        account = Account(
            connection,
            client,
            share,
            poller,
            containment,
            Ledger(
                client,
                clock=self._clock,
                contain=containment.contain,
                late=self._late,
                read_seconds=max(self._feed_seconds, READ_SECONDS),
            ),
            users,
            unused_since=mono(),
            starts=Starts(weights=self._weights),
            searches=Starts(weights=self._weights),
            slots=self._slots(connection, client, poller, users, containment),
            clock=self._clock,
            looked=self._looked,
            turned=self._listener.turned,
            subscription=self._subscription(connection, mono),
        )
        self._accounts[connection] = account
        self._launch(account)
        return account

    def _subscription(self, connection: Connection, mono: Callable[[], float]) -> Subscription | None:
        """With a channel of its own: what its token may not do says nothing of the connection's."""
        if connection.webhook_url is None:
            return None
        manager = managing(connection)
        channel = Channel(manager, Budget(*UNPROVEN, mono), self._transport, self._clock, self._request_seconds)
        surprises = Containment(manager, tuple, mono).surprises
        return Subscription(channel, connection.webhook_url, self._subscribed, self._clock, surprises)

    def _slots(
        self, connection: Connection, client: Client, poller: Poller, users: set[str], containment: Containment
    ) -> Slots | None:
        if connection.max_runs is None:
            return None

        async def count(listed: int) -> LiveRuns | None:
            with containment.contain("count of live runs"):
                return await client.count_live(listed)

        return Slots(
            connection.max_runs,
            count,
            lambda: poller.following,
            self._listener,
            lambda: tuple(users),
            self._clock,
            self._weights,
        )

    def _launch(self, account: Account) -> None:
        if self._group is not None:
            account.task = self._group.create_task(account.run())

    async def _close(self, account: Account) -> None:
        self._accounts.pop(account.connection, None)
        if account.task is not None:
            # Before the client is closed: a poller would report the closed client as a fault of dbt Cloud.
            account.task.cancel()
            await asyncio.wait([account.task])
        await account.client.close()
