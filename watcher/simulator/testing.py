"""A simulator inside a test: in the test's own event loop, on a free port, and with its state open to the test."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from watcher.simulator.scenario import Scenario
from watcher.simulator.server import application, bind, certificate, make_server
from watcher.simulator.state import Simulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from watcher.simulator.clock import Clock


class ManualTime:
    """A clock that only the test advances: `Clock(source=ManualTime())`."""

    def __init__(self, start: float = 1_720_015_140.0) -> None:
        self.seconds = start

    def __call__(self) -> float:
        return self.seconds

    def move(self, seconds: float) -> None:
        """Lets time pass."""
        self.seconds += seconds


@dataclass(frozen=True)
class Running:
    """A simulator that answers at `url`. Its state is in `simulator`, which the test may read and change."""

    simulator: Simulator
    url: str
    host: str  # with the port: what a connection's host field takes
    ca: Path | None

    @property
    def account_id(self) -> int:
        """The id of the only account."""
        return self.simulator.account.spec.id

    @property
    def token(self) -> str:
        """A token that may do everything."""
        return next(iter(self.simulator.tokens))

    @property
    def job_id(self) -> int:
        """The first job."""
        return next(iter(self.simulator.account.jobs))

    def api(self, path: str = "", version: str = "v2") -> str:
        """The URL of a resource of the account: `api("runs/")`."""
        return f"{self.url}/api/{version}/accounts/{self.account_id}/{path}"


@contextlib.asynccontextmanager
async def running(
    scenario: Scenario | None = None,
    *,
    tls: bool = False,
    clock: Clock | None = None,
    state: Path | None = None,
    port: int = 0,
) -> AsyncIterator[Running]:
    """Serves a scenario until the end of the block."""
    simulator = Simulator(scenario or Scenario(), clock, state)
    ready = asyncio.Event()
    with tempfile.TemporaryDirectory(prefix="dbt-simulator-") as directory:
        context, ca = certificate(Path(directory), ()) if tls else (None, None)
        listening = bind("127.0.0.1", port)
        host = f"127.0.0.1:{listening.getsockname()[1]}"
        server = make_server(application(simulator), context, ready.set)
        simulator.webhooks.start()
        task = asyncio.create_task(server.serve([listening]))
        try:
            await ready.wait()
            yield Running(simulator, f"{'https' if tls else 'http'}://{host}", host, ca)
        finally:
            server.should_exit = True
            await task
            simulator.close()
