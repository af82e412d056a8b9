"""Puts the watcher together, runs its parts in one TaskGroup, and stops them in order.

A part that dies ends the process, and one that stands still fails the liveness probe: nothing stops silently.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn, cast

from dbtrun.api import DbtRun, Status
from dbtrun.api.mirrors import DbtRunMirror
from dbtrun.connection.secret import Connection
from dbtrun.kube.errors import Misconfigured
from watcher.census import Counting
from watcher.cluster.access import ClusterAccess
from watcher.cluster.events import Events
from watcher.cluster.expiry import Expiry
from watcher.cluster.leader import Leader, LeaseSettings
from watcher.cluster.leader_thread import LeaderThread
from watcher.cluster.mirror import Mirror
from watcher.cluster.mirrors import MirrorWatch, MirrorWriter
from watcher.cluster.secrets import SecretReader
from watcher.cluster.served_crd import ServedCrd
from watcher.cluster.stream import Stream, StreamBroken
from watcher.cluster.writer import Writer
from watcher.connections import Connections
from watcher.dbtcloud.accounts import Accounts
from watcher.knowledge import Knowledge
from watcher.lifecycle.decisions import Event
from watcher.lifecycle.ended import rests_until
from watcher.lifecycle.facts import Observation
from watcher.lifecycle.history import History, Streaks
from watcher.lifecycle.spans import ended_traces
from watcher.mirroring import WRITES_AT_ONCE, Mirroring, Objects, Shell
from watcher.perform import Performer
from watcher.reconcile import Reconciler
from watcher.settings import Settings, flag, own_address, own_namespace, own_pod
from watcher.sources import SecretName, Sources
from watcher.telemetry import logs
from watcher.telemetry.health import LIMITS, Checks, health_app
from watcher.telemetry.metrics import Metrics
from watcher.telemetry.serving import serve
from watcher.telemetry.tracing import Tracing, TracingMissing, tracing
from watcher.telemetry.vitals import Heart, Vitals
from watcher.version import version
from watcher.webhooks import receiver
from watcher.webhooks.hint import Hint
from watcher.webhooks.receiver import Receiver
from watcher.webhooks.relay import Relay
from watcher.webhooks.signers import Signers

logger = logging.getLogger(__name__)

STOP_SECONDS: Final = 20.0
"""For what is under way when the watcher must stop, as the answer to a start. A pod has 30 s of grace."""


STUCK_SECONDS: Final = 300.0
"""A part that makes no progress for this long, plus the time-out of a request, hangs: Kubernetes restarts the watcher.
With a shorter time, a slow API server or dbt Cloud would restart it for nothing."""
LISTED_SECONDS: Final = 0.5
"""Between two looks at whether every object is known."""
LEADERLESS_SECONDS: Final = 60.0
"""The same for a watcher that acts but no longer holds the Lease: it should have ended within seconds."""


class Unstartable(Exception):
    """The watcher cannot begin; the message says what to change."""


class LostLead(Exception):
    """This watcher must no longer act."""


class PartEnded(Exception):
    """A part that must go on as long as the watcher ended; the message names it."""


class Watcher:
    """One watcher and its parts."""

    def __init__(self, settings: Settings, access: ClusterAccess, traces: Tracing | None = None) -> None:
        self._traces = traces
        self._clock = access.clock
        self.metrics = Metrics(version())

        # What is known of the objects, and figures about them.
        self.history = History()
        self.streaks = Streaks()
        self.objects = Objects(lambda uid: self.mirror.namespace(uid) is not None)
        self.counting = Counting(
            lambda: self.mirror.resting_in,
            self.history,
            self.streaks,
            access.clock,
            lambda: self._acting,
            self._limited,
        )
        self.mirror = Mirror(
            lambda run: rests_until(run, access.clock().wall),
            self._ended,
            self.objects.seen,
            self.counting.note,
            self.counting.forget,
        )
        self.events = Events(access, own_pod(), lambda: any(account.starts.crowded for account in self.accounts))

        # The connections to dbt Cloud.
        secrets = SecretReader(access)
        self.sources = Sources(secrets)
        self.knowledge = Knowledge(access.clock, self.wake, lambda *doubt: connections.doubt(*doubt))
        self.accounts = Accounts(
            self.knowledge,
            requests_per_minute=settings.requests_per_minute,
            feed_seconds=settings.feed_interval_seconds,
            request_seconds=settings.request_seconds,
            names_of=lambda uids: [str(self.mirror.get(uid) or uid) for uid in uids],
            count=lambda reason: self.metrics.connection_faults.labels(reason.value).inc(),
            observe=lambda sent: self.metrics.sent(*sent),
            elsewhere=self.history.note_facts,
            late=self.metrics.mirror_late_runs.inc,
            looked=self.metrics.webhook_looks.inc,
            subscribed=lambda state: self.metrics.webhook_subscriptions.labels(state).inc(),
            clock=access.clock,
            weights=settings.weights,
        )

        # What comes from the API server, and what is written to it.
        self.stream = Stream(
            access,
            self.mirror,
            self.wake,
            namespaces=settings.served_namespaces,
            on_restart=lambda _why: self.metrics.watch_restarts.inc(),
            on_restored=self._restored,
        )
        self.crd = ServedCrd(access)
        writer = Writer(access, self.crd.dropped)
        self.expiry = Expiry(
            self.mirror, writer, self.wake, lambda: access.clock().wall.timestamp(), lambda: self._acting
        )

        # The reconciler: what is decided about DbtRuns, and carried out.
        default: SecretName | Path | None = Path(settings.connection_dir) if settings.connection_dir else None
        if settings.connection_secret:
            default = SecretName(own_namespace(), settings.connection_secret)
        connections = Connections(
            self.sources,
            self.accounts,
            default,
            settings.default_connection_serves,
            settings.hosts,
            settings.projects_of,
        )
        performer = Performer(
            objects=writer,
            record=self.mirror.record,
            forget_object=self.mirror.forget,
            namespace_of=self.mirror.namespace,
            connections=connections,
            emit=self.emit,
            clock=access.clock,
            metrics=self.metrics,
            went_back=self.stream.doubt,
            taken_on=self._taken_on,
            wrote=self._trace,
            may_act=self._may_act,
        )
        self.reconciler = Reconciler(
            self.mirror,
            self.knowledge,
            performer,
            access.clock,
            settings.policy,
            self.metrics,
            emit=self.emit,
            typical=self.history.typical_of,
        )

        # DbtRunMirrors.
        self.mirroring = Mirroring(
            Shell(
                writer=MirrorWriter(access),
                connections=connections,
                objects=self.objects,
                record=self._mirrored,
                forget=self.mirror.forget,
                clock=access.clock,
                may_act=self._may_act,
                note=lambda outcome: self.metrics.mirror_runs.labels(outcome).inc(),
                emit=self.emit,
                writes=asyncio.Semaphore(WRITES_AT_ONCE),
            )
        )
        self.mirrors = MirrorWatch(
            access,
            settings.served_namespaces,
            self.mirroring.changed,
            self.mirroring.gone,
            self.mirroring.found_again,
        )

        # Webhooks.
        self.receiver: Receiver | None = None
        if settings.webhooks_address is not None:
            self.receiver = Receiver(
                Signers(secrets, settings.hosts, access.clock),
                self._hinted,
                self._may_act,
                Relay(lambda: self._leader.holder_address if self._leader is not None else ""),
                self.metrics.webhook,
                access.clock,
            )

        # The Lease, and whether every part makes progress.
        self._acting = False
        self._leading = asyncio.Event()
        self._lost = asyncio.Event()
        self._leader: LeaderThread | None = None
        if settings.leader_election:
            elect = partial(
                Leader,
                namespace=own_namespace(),
                name=settings.lease_name,
                settings=LeaseSettings.lasting(settings.lease_seconds),
                pod=own_pod(),
                address=reached_at(settings),
            )
            self._leader = LeaderThread(access.another, elect, self._lead_changed)
        self._led_at = time.monotonic()
        self.vitals = Vitals()
        self.vitals.watch("watch", STUCK_SECONDS, self.stream.silent)
        self.vitals.watch("poller", STUCK_SECONDS + settings.request_seconds, self._polling_silent)
        self.vitals.watch("reconciler", STUCK_SECONDS + settings.request_seconds, self.reconciler.silent)
        self.vitals.watch("leader", LEADERLESS_SECONDS, self._leaderless)

        # The metrics ask the parts, at each scrape.
        self.metrics.watch(self.accounts)
        self.metrics.watch_objects(self.counting)
        self.metrics.watch_parts(self.vitals)
        self.metrics.oldest_step.set_function(self.reconciler.oldest)
        self.metrics.mirrors.set_function(lambda: len(self.mirroring))
        self.metrics.mirror_lag.set_function(lambda: self.mirroring.lag)
        self.metrics.known.set_function(lambda: len(self.mirror))
        self.metrics.unreadable.set_function(lambda: len(self.mirror.all_unreadable))
        self.metrics.watch_broken.set_function(lambda: self.stream.problem is not None)
        self.metrics.watch_scopes({name or "": scope for name, scope in self.stream.scopes.items()})
        self.metrics.leader.set_function(self._may_act)
        self.metrics.crd_fields_missing.set_function(lambda: len(self.crd.missing))
        self.metrics.clock_offset.set_function(lambda: access.clock.offset.total_seconds())

    def _polling_silent(self) -> float:
        return max((account.poller.silent() for account in self.accounts), default=0.0)

    def _leaderless(self) -> float:
        now = time.monotonic()
        if self._may_act() or not self._acting:
            # A standby waits for the Lease. Only a watcher that has acted and may not any more is without one.
            self._led_at = now
        return now - self._led_at

    def _trace(self, before: DbtRun, after: Status) -> None:
        if self._traces is not None:
            for trace in ended_traces(before, after, self._clock().wall):
                self._traces.export(trace)

    def _ended(self, run: DbtRun) -> None:
        self.history.note(run)
        self.streaks.note(run)

    def _limited(self) -> Iterator[tuple[str, bool]]:
        """The objects whose connection limits concurrent runs, and whether each holds a slot beside its live run."""
        for account in self.accounts:
            if account.slots is not None:
                yield from ((uid, account.slots.holds(uid)) for uid in account.users)

    def _lead_changed(self, leading: bool) -> None:
        """A watcher that loses its Lease ends, so that its replacement starts without stale state."""
        (self._leading if leading else self._lost).set()

    def _may_act(self) -> bool:
        return self._leader is None or self._leader.is_leader()

    def wake(self, uid: str) -> None:
        """Something about an object has changed."""
        aside = self.mirror.unreadable(uid)
        if aside is not None:
            logger.warning("DbtRun %s/%s cannot be read: %s", aside.namespace, aside.name, aside.message)
        if self._acting:
            self.reconciler.wake(uid)
            run = self.mirror.get(uid)
            observation = self.objects.foreseen(run) if run is not None else None
            if run is not None and observation is not None:
                self._foresee(run, observation)

    def _mirrored(self, run: DbtRun, observation: Observation) -> None:
        """An object was created for a run that others have started."""
        self.mirror.record(run)
        self.wake(run.uid)
        self._foresee(run, observation)

    def _foresee(self, run: DbtRun, observation: Observation) -> None:
        """What the list said of the run is all that its object needs: its end is the first status that is written."""
        if run.spec.run_id is not None:
            # After the wake, which makes the object known: of an unknown one, nothing is kept.
            self.knowledge.foresee(run.uid, run.spec.run_id, observation)

    def _hinted(self, connection: Connection, hint: Hint) -> bool:
        """Whether somebody waits for what a webhook is about."""
        account = self.accounts.open(connection)
        if account is None or hint.run_id is None or hint.account_id not in (None, connection.account_id):
            return False
        return account.hints.note(hint.run_id, ended=hint.kind.ended)

    def emit(self, about: DbtRun | DbtRunMirror, event: Event) -> None:
        """Sends an Event in the background."""
        self.events.emit(about, event.type, event.reason, event.message, action="Reconcile")

    def _taken_on(self, run: DbtRun) -> None:
        told = self.crd.warning()
        if told is not None:
            self.emit(run, Event("Warning", "OldCRD", told))

    @property
    def checks(self) -> Checks:
        """What the probes ask."""
        return Checks(vitals=self.vitals, ready=self._not_ready, notes=self._notes)

    def _beat(self, lag: float) -> None:
        self.metrics.loop_lag.observe(lag)
        self.vitals.tell()
        self.reconciler.tell_stuck()

    def _restored(self) -> None:
        """What happened after the backup is not in the statuses, so from now on it is looked up."""
        self.metrics.restores.inc()
        self.knowledge.begin()

    def _not_ready(self) -> str | None:
        if not self.stream.synced.is_set():
            return self.stream.problem or "The first listing of DbtRuns is not complete."
        if self.stream.unknown:
            return f"The first listing of DbtRuns is not complete in {', '.join(self.stream.unknown)}."
        return None

    def _notes(self) -> str | None:
        """A namespace that is missing does not affect the others, so it does not make the watcher unready."""
        standby = None
        if self._leader is not None and not self._may_act():
            holder = self._leader.holder
            standby = f"standby: {holder} holds the Lease" if holder else "standby: the Lease is not held"
        return "\n".join(filter(None, (standby, self.stream.problem))) or None

    async def run(self, listener: socket.socket, stop: asyncio.Event, webhooks: socket.socket | None = None) -> None:
        """Works until `stop` is set, then finishes what is under way. Takes webhooks if it gets a socket for them.

        Raises:
            LostLead: another watcher may act now.
            StreamBroken: DbtRuns cannot be watched.
            PartEnded: a part died by a defect of ours. Nothing works without it.
        """
        parts: dict[str, Coroutine[Any, Any, object]] = {
            "heart": Heart(self._beat).run(),
            "health": serve(health_app(self.checks, self.metrics), listener, LIMITS),
            "watch": self.stream.run(),
            "poller": self.accounts.run(),
            "secrets": self.sources.run(self.knowledge.mended),
            "events": self.events.run(),
            "expiry": self.expiry.run(),
            "crd": self.crd.run(),
            "reconciler": self._begin(),
            "mirrors": self.mirrors.run(),
            "mirroring": self._begin_mirroring(),
        }
        if webhooks is not None and self.receiver is not None:
            parts["webhooks"] = serve(self.receiver, webhooks, receiver.LIMITS)
        async with asyncio.TaskGroup() as group:
            # The elector is none of them: it must hold the Lease until all others have stopped.
            workers = [group.create_task(_lasting(name, work), name=name) for name, work in parts.items()]
            leader = group.create_task(_lasting("leader", self._leader.run())) if self._leader else None
            await self._until_stopped(stop)
            # The others go on meanwhile: what is under way needs the watch and the pollers to be finished.
            await self.reconciler.stop(STOP_SECONDS)
            await self.events.flush()
            for worker in workers:
                worker.cancel()
            await asyncio.wait(workers)
            if self.receiver is not None:
                await self.receiver.close()
            if leader is not None:
                leader.cancel()  # last: the next holder begins at once

    async def _until_stopped(self, stop: asyncio.Event) -> None:
        waits = [asyncio.create_task(event.wait()) for event in (stop, self._lost)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._lost.is_set():
            # Nothing under way may go on: the new holder of the Lease may have begun to act.
            await self.reconciler.stop(0.0)
            raise LostLead("The Lease was lost: another watcher may act now.")
        logger.info("Stopping: work in progress is finished first.")

    async def _begin(self) -> None:
        """Begins to act once a namespace is listed and the Lease is held. What is listed later wakes by itself."""
        await self.stream.synced.wait()
        if self._leader is not None:
            logger.info("Waiting for the Lease.")
            await self._leading.wait()
        logger.info("Watching %d DbtRuns.", len(self.mirror))
        # From here on `wake` reaches the reconciler: what comes before is in the mirror, and woken below.
        self._acting = True
        self.knowledge.begin()
        for run in self.mirror:
            self.reconciler.wake(run.uid)
        await asyncio.Event().wait()  # from here on, events wake the reconciler

    async def _begin_mirroring(self) -> None:
        """Begins once this watcher acts and knows every object, and so every run that is its own."""
        while not (self._acting and self.stream.all_listed):  # noqa: ASYNC110 - two parts and their scopes say so
            await asyncio.sleep(LISTED_SECONDS)
        await self.mirroring.run()


async def _lasting(name: str, work: Coroutine[Any, Any, object]) -> NoReturn:
    """Runs a part that must never end: if it does, the watcher ends, with the name of the part.

    Raises:
        PartEnded: it ended; LostLead and StreamBroken, which explain themselves, stay what they are.
    """
    why: BaseException | None = None
    try:
        await work
    except StreamBroken:
        raise
    except (Exception, asyncio.CancelledError) as error:
        task = asyncio.current_task()
        # A part may cancel itself by a defect. Then it has ended, and nobody has asked for it.
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise
        why = error
    words = _words(why)
    logger.critical("The part %s ended: %s", name, words, extra={"part": name}, exc_info=why)
    raise PartEnded(f"The part {name} of the watcher ended: {words}") from why


def _words(error: BaseException | None) -> str:
    """The innermost error: a group only says how many it has."""
    if isinstance(error, BaseExceptionGroup):
        return _words(error.exceptions[0])
    return "it had nothing more to do." if error is None else f"{type(error).__name__}: {error}"


async def watch(settings: Settings) -> None:
    """Runs a watcher until SIGTERM or SIGINT.

    Raises:
        Unstartable: the API server or the address cannot be used, or the watcher cannot go on.
    """
    with ExitStack() as sockets:
        listener = sockets.enter_context(listen(settings.address, "listen"))
        address = settings.webhooks_address
        webhooks = sockets.enter_context(listen(address, "webhooks_listen")) if address is not None else None
        traces = None
        try:
            traces = tracing(version()) if settings.tracing else None
            kubeconfig = Path(settings.kubeconfig) if settings.kubeconfig else None
            access = await ClusterAccess.load(kubeconfig, settings.context or None)
        except (Misconfigured, TracingMissing) as error:
            raise Unstartable(str(error)) from None
        logs.configure(settings.log_level, cast(logs.LogFormat, settings.log_format))
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        try:
            logger.info("Listening on %s.", _written(listener))
            if webhooks is not None:
                logger.info("Listening for webhooks on %s.", _written(webhooks))
            await Watcher(settings, access, traces).run(listener, stop, webhooks)
        except* (LostLead, StreamBroken, PartEnded) as errors:
            raise Unstartable(str(errors.exceptions[0])) from None
        finally:
            await access.close()
            if traces is not None:
                # In a thread: it may wait for a collector that does not answer.
                await asyncio.to_thread(traces.close)


def _written(listener: socket.socket) -> str:
    return in_url(*listener.getsockname()[:2])


def in_url(host: str, port: int) -> str:
    """An address as it is written in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def reached_at(settings: Settings) -> str:
    """Where other watchers reach the receiver of webhooks of this one; empty if they do not, or it is not known."""
    address = settings.webhooks_address
    if address is None:
        return ""
    host, port = own_address() or address[0], address[1]
    return in_url(host, port) if host not in ("", "::", "0.0.0.0") and port else ""  # noqa: S104


def listen(address: tuple[str, int], setting: str) -> socket.socket:
    """Takes an address, which the setting names.

    Raises:
        Unstartable: it cannot be used.
    """
    host, port = address
    try:
        # Every address means IPv4 and IPv6, as far as the machine has them: a cluster may use either, or both.
        if host in ("", "::") and socket.has_dualstack_ipv6():
            return socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, UnicodeError) as error:
        why = (getattr(error, "strerror", None) or "not a host name").partition(" (while")[0]
        raise Unstartable(f"Cannot listen on {in_url(host, port)}: {why}; choose another {flag(setting)}.") from None
