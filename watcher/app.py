"""Puts the watcher together, runs its parts in one TaskGroup, and stops them in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from pathlib import Path
from typing import Final, cast

from watcher.api import DbtRun
from watcher.cluster.access import ClusterAccess, ClusterAccessError
from watcher.cluster.events import Events
from watcher.cluster.mirror import Mirror
from watcher.cluster.secrets import SecretReader
from watcher.cluster.stream import Stream
from watcher.cluster.writer import Writer
from watcher.connections import Connections
from watcher.dbtcloud.accounts import Accounts
from watcher.dbtcloud.clock import system_clock
from watcher.lifecycle.decisions import Event
from watcher.perform import Performer
from watcher.reconcile import Reconciler
from watcher.settings import Settings
from watcher.telemetry import logs
from watcher.telemetry.health import Checks, health_app, serve
from watcher.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)

STOP_SECONDS: Final = 20.0
"""For what is under way when the watcher is told to stop: a start's answer, within a pod's 30 s of grace."""


class Unstartable(Exception):
    """The watcher cannot begin; the message says what to change."""


class Watcher:
    """One watcher: its parts, wired."""

    def __init__(self, settings: Settings, access: ClusterAccess) -> None:
        self.metrics = Metrics()
        self.mirror = Mirror()
        self.events = Events(access)
        self.connections = Connections(
            SecretReader(access),
            Path(settings.connection_dir) if settings.connection_dir else None,
            settings.default_connection_serves,
        )
        self.accounts = Accounts(
            self.connections.sink_of,
            requests_per_minute=settings.requests_per_minute,
            feed_seconds=settings.feed_interval_seconds,
        )
        self.stream = Stream(access, self.mirror, self.wake, namespaces=settings.served_namespaces)
        performer = Performer(
            objects=Writer(access),
            record=self.mirror.record,
            forget_object=self.mirror.forget,
            connections=self.connections,
            emit=self.emit,
            clock=system_clock,
            metrics=self.metrics,
        )
        self.reconciler = Reconciler(self.mirror, performer, system_clock, settings.policy, self.metrics)
        self.connections.attach(self.accounts, self.reconciler)

    def wake(self, uid: str) -> None:
        """Something is known of an object, once all are known: acting on half a listing would be acting blind."""
        if self.stream.synced.is_set():
            self.reconciler.wake(uid)

    def emit(self, run: DbtRun, event: Event) -> None:
        """Tells an Event; nobody waits for it."""
        self.events.emit(run, event.type, event.reason, event.message, action="Reconcile")

    @property
    def checks(self) -> Checks:
        """What the probes ask."""
        return Checks(alive=lambda: None, ready=self._not_ready)

    def _not_ready(self) -> str | None:
        if not self.stream.synced.is_set():
            return self.stream.problem or "The first listing of DbtRuns is not complete."
        return None

    async def run(self, listener: socket.socket, stop: asyncio.Event) -> None:
        """Works until told to stop, then ends what is under way."""
        async with asyncio.TaskGroup() as group:
            parts = [
                group.create_task(serve(health_app(self.checks, self.metrics), listener), name="health"),
                group.create_task(self.stream.run(), name="stream"),
                group.create_task(self.accounts.run(), name="accounts"),
                group.create_task(self._begin(), name="begin"),
            ]
            events = group.create_task(self.events.run(), name="events")
            await stop.wait()
            logger.info("Stopping: what is under way is finished first.")
            await self.reconciler.stop(STOP_SECONDS)
            await self.events.flush()
            for part in (*parts, events):
                part.cancel()

    async def _begin(self) -> None:
        await self.stream.synced.wait()
        logger.info("Watching %d DbtRuns.", len(self.mirror))
        for uid in self.mirror.uids():
            self.reconciler.wake(uid)


async def watch(settings: Settings) -> None:
    """Runs a watcher until SIGTERM or SIGINT.

    Raises:
        Unstartable: a setting, the way to the API server or the address cannot be used.
    """
    logs.configure(settings.log_level, cast(logs.LogFormat, settings.log_format))
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    listener = _listen(settings)
    try:
        kubeconfig = Path(settings.kubeconfig) if settings.kubeconfig else None
        access = await ClusterAccess.load(kubeconfig, settings.context or None)
    except ClusterAccessError as error:
        listener.close()
        raise Unstartable(str(error)) from None
    try:
        logger.info("Listening on %s:%d.", *listener.getsockname()[:2])
        await Watcher(settings, access).run(listener, stop)
    finally:
        await access.close()


def _listen(settings: Settings) -> socket.socket:
    try:
        host, port = settings.address
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise Unstartable(f"Cannot listen on {settings.listen}: {error.strerror}; choose another --listen.") from None
