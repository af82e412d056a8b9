"""N kills under every fault: a seeded day of people, faults and deaths, and at its end the oracle's verdict.

The seed decides who does what and when; what meets what in those milliseconds is the machine's.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final, NamedTuple

from dbtrun.api import FINALIZER, Phase
from tests.chaos.arena import AWAY_ACCOUNT, MUTANTS, PAST, SCENARIO, SETTINGS, STRANGE_JOB, WATCHERS, Arena
from tests.chaos.faults import DOUBTFUL, FAULTS
from tests.chaos.mirrors import Mirrors
from tests.chaos.oracle import Seen, Verdict, judge, started_in_both
from tests.chaos.people import People
from tests.controlplane import ControlPlane
from tests.stack import until
from watcher.cluster.access import ClusterAccess
from watcher.lifecycle.facts import RunState
from watcher.lifecycle.marker import owner_of

CALM_SECONDS: Final = 30.0
"""Longer than the quiet period and a fail-over."""
WRITE_SECONDS: Final = 15.0
"""From the start of short runs elsewhere until a mirror shows one of them, if nothing is in the way."""
SETTLE_SECONDS: Final = 240.0
"""From the last fault until every object has come to its end; backoff alone may take a minute."""
DISTURBANCES: Final = {"kill": 8, "kill all": 8, "crash loop": 10,
                       "kill all at a mirror's write": 4, "pause": 3, "pause for long": 1,
                       "partition": 2, "cut connections": 2, "silence connections": 1, "rotate token": 2,
                       "restart dbt Cloud": 3, "freeze API server": 1, "restart API server": 1, "compact etcd": 2,
                       "calm": 2}  # fmt: skip
"""What happens in a round, as often as it stands here in a deck: each is dealt before any comes again."""
GOING_BACK: Final = ("restore etcd, revision bumped", "switch account", "restore etcd", "switch account")
"""What takes the ground from under the watchers, in turn; not where a part of the protocol is missing anyway."""
GOES_BACK_EVERY: Final = 3
"""Rounds. A backup is made two rounds before, so that a short campaign has a restore too."""
NEWCOMERS: Final = 2
"""How often people act before such a backup."""
SKIPPED: Final = object()
"""Of something that could not happen."""
SNAPSHOTS: Final = 3
"""How many are kept; a restore takes any of them."""
SNAPSHOT_CHANCE: Final = 0.3
"""Of one after a round."""
LEASE, QUIET_PERIOD = (float(SETTINGS[f"DBTRUN_{name}_SECONDS"]) for name in ("LEASE", "QUIET_PERIOD"))


class Snapshot(NamedTuple):
    """A backup of etcd, and the names of all objects that there ever were by then."""

    file: Path
    names: frozenset[str]


@dataclass(slots=True)
class Figures:
    """What a campaign did, met and found."""

    seed: int
    kills: int = 0
    seconds: float = 0.0
    rounds: int = 0
    objects: int = 0
    runs: int = 0
    runs_elsewhere: int = 0
    """Runs of the other account, those of strangers too."""
    done: dict[str, int] = field(default_factory=dict)
    """By people."""
    disturbances: dict[str, int] = field(default_factory=dict)
    faults_hit: dict[str, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    lost: int = 0
    untruthful: int = 0
    left_alive: int = 0
    strangers_touched: int = 0
    started_elsewhere: int = 0
    """Runs that mirrors have to show."""
    mirrored: dict[str, int] = field(default_factory=dict)
    """Their DbtRuns at the end, by the mirror."""
    mirrors_lost: int = 0
    mirrors_doubled: int = 0
    lost_with_a_restore: int = 0
    """Objects that were created after the snapshot."""
    broken: list[str] = field(default_factory=list)

    def told(self) -> dict[str, Any]:
        return asdict(self)


class Campaign:
    """One day."""

    def __init__(self, arena: Arena, people: People, random: Random, *, doubt: float, goes_back: bool) -> None:
        self.arena, self.people, self.random, self.doubt = arena, people, random, doubt
        self.disturbed: Counter[str] = Counter()
        self.killed = 0
        self.rounds = 0
        self._backs = itertools.cycle(GOING_BACK) if goes_back else None
        self._deck: list[str] = []
        self._going_on: set[asyncio.Task[None]] = set()
        """What lasts for longer than its round."""
        self._snapshots: list[Snapshot] = []
        self._forgotten = 0

    async def run(self, kills: int, rounds: int, seconds: float, progress: Callable[[int], None]) -> None:
        """Until so many watchers were killed in so many rounds, or the time is over."""
        end = time.monotonic() + seconds
        while (
            (self.killed < kills or self.rounds < rounds) and time.monotonic() < end and not await self._beyond_repair()
        ):
            before = self.killed
            await self._round()
            progress(self.killed - before)
        if not await self._beyond_repair():
            await self._settle()

    async def _beyond_repair(self) -> bool:
        """Nothing that follows can mend a second run, or a run that a mirror has passed over."""
        here, there = await self._runs()
        doubled = judge([], here).duplicates + judge([], there).duplicates + started_in_both(here, there)
        return bool(doubled or self.people.mirrors.passed_over)

    async def _runs(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Of both accounts."""
        return await self.arena.ask("GET", "/runs"), await self.arena.elsewhere.runs()

    async def _round(self) -> None:
        self.rounds += 1
        await self.arena.watched()
        for name in self._faults():
            await self.arena.plague(name, FAULTS[name](self.random))
        await self.people.act()
        await asyncio.sleep(self.random.uniform(0.0, 2.5))  # so that death comes at any instant
        await self._disturb(self._deal())
        self.arena.revive()
        await asyncio.sleep(self.random.uniform(0.0, 1.0))
        await self.arena.heal()
        await self.people.look()
        if self._backs is not None:
            await self._back_up()

    def _faults(self) -> set[str]:
        names = set(self.random.sample(sorted(FAULTS), self.random.randint(0, 3)))
        return names | ({self.random.choice(DOUBTFUL)} if self.random.random() < self.doubt else set())

    def _deal(self) -> str:
        if self._backs is not None and self.rounds % GOES_BACK_EVERY == 0:
            return next(self._backs)
        if not self._deck:
            self._deck = [name for name, count in DISTURBANCES.items() for _ in range(count)]
            self.random.shuffle(self._deck)
        return self._deck.pop()

    async def _disturb(self, name: str) -> None:
        plane, drawn = self.arena.plane, self.random.uniform
        acts: dict[str, Callable[[], Awaitable[object]]] = {
            "kill": lambda: self._kill(1),
            "kill all": lambda: self._kill(WATCHERS),
            "crash loop": self._crash_loop,
            "kill all at a mirror's write": self._kill_at_write,
            "pause": lambda: self._pause(drawn(LEASE, 3 * LEASE)),
            "pause for long": lambda: self._pause(drawn(QUIET_PERIOD, QUIET_PERIOD + LEASE)),
            "partition": self._partition,
            "cut connections": self._cut,
            "silence connections": self._silence,
            "rotate token": lambda: self.arena.rotate_token(drawn(0.0, 3.0)),
            "restart dbt Cloud": self.arena.restart_simulator,
            "freeze API server": self._freeze,
            "restart API server": self._restart_apiserver,
            "compact etcd": plane.compact,
            "restore etcd": lambda: self._restore(bumped=False),
            "restore etcd, revision bumped": lambda: self._restore(bumped=True),
            "switch account": self._switch,
            "calm": self._calm,
        }
        if await acts[name]() is not SKIPPED:
            self.disturbed[name] += 1

    async def _kill(self, count: int) -> None:
        alive = [watcher for watcher in self.arena.watchers if watcher.running]
        for watcher in self.random.sample(alive, min(count, len(alive))):
            await watcher.kill()
            self.killed += 1

    async def _crash_loop(self) -> None:
        """Dying again on the way up, again and again: what one has found out, the next one must find out anew."""
        await self._kill(WATCHERS)
        for _ in range(self.random.randint(1, 5)):
            self.arena.revive()
            await asyncio.sleep(self.random.uniform(0.0, 4.0))
            await self._kill(WATCHERS)

    async def _kill_at_write(self) -> None:
        """Several runs end elsewhere, and the watchers die as soon as a mirror has written anything about them."""
        before = self.people.mirrors.written
        await self.people.mirrors.act_together()

        async def written() -> bool:
            await self.people.look()
            return self.people.mirrors.written != before

        with contextlib.suppress(AssertionError):
            await until(written, WRITE_SECONDS, "a mirror writes", pause=0.05)
        await self._kill(WATCHERS)

    async def _calm(self) -> bool:
        """As long as it takes to find out about every start whose answer was lost."""
        return await self._until_none(lambda one: one.run.status.phase is Phase.SUBMITTING, "no start undecided")

    async def _until_none(self, waits: Callable[[Seen], bool], what: str) -> bool:
        async def none() -> bool:
            self.arena.revive()
            return not any(waits(one) for one in await self.people.look() if not one.gone)

        with contextlib.suppress(AssertionError):
            return await until(none, CALM_SECONDS, what, pause=0.5)
        return False

    async def _pause(self, seconds: float) -> None:
        """The others go on."""
        self._meanwhile(self.arena.pause(self.random.choice(self.arena.watchers), seconds))

    async def _partition(self) -> None:
        """Its Lease passes, and it cannot be told."""
        proxy = self.random.choice(self.arena.proxies)
        self._meanwhile(self.arena.partition(proxy, self.random.uniform(LEASE, 4 * LEASE)))

    async def _cut(self) -> None:
        for proxy in self.arena.proxies:
            proxy.cut()

    async def _silence(self) -> None:
        """As a firewall that forgot them: no connection of now ever says anything again, or that it is over."""
        for proxy in self.arena.proxies:
            proxy.freeze()

    def _meanwhile(self, what: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(what)
        self._going_on.add(task)
        task.add_done_callback(self._going_on.discard)

    async def _freeze(self) -> None:
        await self.arena.plane.freeze_apiserver()
        await asyncio.sleep(self.random.uniform(1.0, 4.0))
        await self.arena.plane.thaw_apiserver()

    async def _restart_apiserver(self) -> None:
        await self.arena.plane.kill_apiserver()
        await self.arena.plane.start_apiserver()

    async def _back_up(self) -> None:
        """Before each event that goes back, of objects that nobody has started yet; now and then, of whatever there is.

        What is started of those later, the backup does not know.
        """
        if self.rounds % GOES_BACK_EVERY == 1:
            await self._kill(WATCHERS)
            for _ in range(NEWCOMERS):
                await self.people.act()
            await self._snapshot()
        elif self.random.random() < SNAPSHOT_CHANCE:
            await self._snapshot()

    async def _snapshot(self) -> None:
        seen = await self.people.look()
        file = self.arena.folder / f"snapshot-{self.rounds}"
        await self.arena.plane.snapshot(file)
        self._snapshots.append(
            Snapshot(file, frozenset(one.run.metadata.name for one in seen) | self.people.mirrors.names)
        )
        self._keep(self._snapshots[-SNAPSHOTS:])

    def _keep(self, snapshots: list[Snapshot]) -> None:
        for snapshot in self._snapshots:
            if snapshot not in snapshots:
                snapshot.file.unlink()
        self._snapshots = snapshots

    async def _restore(self, *, bumped: bool) -> None:
        """As the documentation says: it takes longer than a start needs to show, and the connection is mended.

        Without a bumped revision, versions are given out twice, so the watchers begin anew.
        """
        if not self._snapshots:
            await self._snapshot()
        snapshot = self.random.choice(self._snapshots)
        await self._kill(self.random.randint(0, WATCHERS))
        await self.arena.plane.kill_apiserver()
        await self.arena.heal()
        await asyncio.sleep(QUIET_PERIOD)
        if not bumped:
            await self._kill(WATCHERS)
        await self.arena.plane.restore(snapshot.file, bumped=bumped)
        await self.arena.connect()
        self._keep([one for one in self._snapshots if one.names <= snapshot.names])
        self._forgotten += len(self.people.last) - len(snapshot.names & self.people.last.keys())
        self.people.forget(snapshot.names)

    async def _switch(self) -> object:
        """The connection names another account for a while: what is claimed then belongs there.

        A status that knows of no claim names no account. So what a restore took a claim from finds its run before, and
        no restore goes back to before the switch. A suspended object finds its run only when it is resumed, which must
        not happen while the connection names the other account (docs/backup.md, Limits).
        """
        await self.arena.heal()
        if not await self._until_none(unclaimed, "everything claimed that is not suspended"):
            return SKIPPED
        owners = {owner_of(run["cause"]) for runs in await self._runs() for run in runs}
        if any(is_unaware(one) and one.run.metadata.uid in owners for one in await self.people.look()):
            return SKIPPED
        await self.arena.lead_elsewhere(self.random.randint(1, 5))
        await asyncio.sleep(self.random.uniform(0.0, 2.0))
        await self._kill(self.random.randint(0, WATCHERS))
        self.arena.revive()
        await self.people.act()
        await asyncio.sleep(self.random.uniform(2.0, 6.0))
        await self.arena.connect()
        await self._kill(WATCHERS)  # one that goes on may use for half a minute what it has read
        self._keep([])
        return None

    async def _settle(self) -> None:
        if self._going_on:
            await asyncio.wait(self._going_on)
        await self.arena.heal()
        await self.people.look()
        await self.people.settle()
        try:
            await self._rest(lambda one: settled(one) or lives_elsewhere(one), "everything at rest")
            await self.arena.lead_elsewhere(0)
            await self._kill(WATCHERS)
            await self._rest(settled, "everything in the other account at rest")
        except AssertionError:
            return  # the verdict says what is not

    async def _rest(self, rests: Callable[[Seen], bool], what: str) -> None:
        async def at_rest() -> bool:
            self.arena.revive()
            seen, mirrors = await self.people.look(), self.people.mirrors
            return bool(mirrors.passed_over) or (all(map(rests, seen)) and mirrors.complete)

        await until(at_rest, SETTLE_SECONDS, what, pause=1.0)

    async def figures(self, seed: int, seconds: float) -> Figures:
        here, there = await self._runs()
        seen = await self.people.look()
        verdict = self._judge([one for one in seen if not lives_elsewhere(one)], here)
        verdict.add(self._judge([one for one in seen if lives_elsewhere(one)], there))
        verdict.duplicates += started_in_both(here, there)
        touched = [f"run {run['id']} of strangers is {run['status']}" for run in there if is_touched(run)]
        mirrored = self.people.mirrors.judge(here)
        statuses = [one.run.status for one in seen if not one.gone]
        ends = Counter(f"{status.phase}/{status.reason}" for status in statuses)
        return Figures(
            seed=seed, kills=self.killed, seconds=round(seconds, 1), rounds=self.rounds,
            objects=len(seen), runs=len(here), runs_elsewhere=len(there), done=dict(sorted(self.people.done.items())),
            disturbances=dict(self.disturbed), faults_hit=dict(sorted(self.arena.hits.items())),
            ends=dict(ends) | {"gone": sum(one.gone for one in seen)},
            duplicates=len(verdict.duplicates), lost=len(verdict.lost), untruthful=len(verdict.untruthful),
            left_alive=len(verdict.left_alive), strangers_touched=len(touched) + len(mirrored.touched),
            lost_with_a_restore=self._forgotten,
            broken=[*verdict.broken, *touched, *mirrored.broken],
            started_elsewhere=len(self.people.mirrors.started), mirrored=self.people.mirrors.counted(),
            mirrors_lost=len(mirrored.lost), mirrors_doubled=len(mirrored.doubled),
        )  # fmt: skip

    def _judge(self, seen: list[Seen], runs: list[dict[str, Any]]) -> Verdict:
        """The objects whose runs are in one account."""
        verdict = judge([one for one in seen if not one.gone], runs)
        self._judge_gone([one for one in seen if one.gone], runs, verdict)
        return verdict

    def _judge_gone(self, gone: list[Seen], runs: list[dict[str, Any]], verdict: Verdict) -> None:
        """Of an object that is gone, the last status may not have been seen: its runs tell whether all is well."""
        verdict.left_alive += judge(gone, runs).left_alive
        unasked = [one.run for one in gone if one.run.metadata.name not in self.people.leaving]
        verdict.lost += [f"{run} is gone, and nobody asked for that" for run in unasked]


def lives_elsewhere(one: Seen) -> bool:
    """Whether the object's runs are in the other account."""
    return one.run.status.account_id == AWAY_ACCOUNT


def unclaimed(one: Seen) -> bool:
    """Whether the object is to have a run and does not name an account yet."""
    return is_unaware(one) and not one.run.spec.suspend


def is_unaware(one: Seen) -> bool:
    """Whether the object names no account, and may still start a run."""
    status = one.run.status
    return not (one.gone or status.attempts or (status.phase and status.phase.final))


def is_touched(run: Mapping[str, Any]) -> bool:
    """Whether somebody else's run of the other account is not as it was: each of them goes on for ever."""
    return bool(run["job_id"] == STRANGE_JOB and RunState(run["status"]).over)


def settled(one: Seen) -> bool:
    """Whether nothing will follow any more."""
    run = one.run
    return one.gone or bool(
        run.status.phase and run.status.phase.final and FINALIZER not in run.metadata.finalizers and not run.deleting
    )


async def campaign(
    plane: ControlPlane,
    folder: Path,
    *,
    kills: int,
    seed: int,
    seconds: float,
    rounds: int = 1,
    without: str | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> Figures:
    """Runs one and returns its figures.

    Args:
        kills: how many watchers are killed.
        seconds: after which no further one is killed.
        rounds: as many at least. A crash loop kills up to 18 watchers in one.
        without: a part of the protocol that is taken away, of `MUTANTS`. The first run that is started twice, or that a
            mirror has passed over, ends it, and in every round something makes starts doubtful, not in every other one.
        progress: is told the kills of each round.
    """
    settings = SETTINGS if without is None else {**SETTINGS, **MUTANTS[without], "CHAOS_MUTANT": without}
    namespace, random = f"chaos-{seed}{f'-{without}' if without else ''}", Random(seed)  # noqa: S311 - a repeatable day
    await asyncio.to_thread(plane.create_namespace_sync, namespace)
    access = await ClusterAccess.load(plane.kubeconfig, None)
    try:
        async with Arena.up(plane, namespace, folder, scenario=SCENARIO, settings=settings) as arena:
            assert isinstance(arena, Arena)
            arena.revive()
            await arena.ask("POST", "/clock", {"offset": random.uniform(-120, 120)})
            mirrors = Mirrors(arena, random)
            await mirrors.begin()
            people = People(arena, access, random, mirrors)
            doubt, goes_back = (0.5, True) if without is None else (1.0, without == PAST)
            day = Campaign(arena, people, random, doubt=doubt, goes_back=goes_back)
            began = time.monotonic()
            await day.run(kills, rounds, seconds, progress)
            return await day.figures(seed, time.monotonic() - began)
    finally:
        await access.close()
