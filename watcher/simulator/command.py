"""`dbtrun simulate`."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from watcher.simulator.clock import Clock
from watcher.simulator.scenario import Scenario, ScenarioError, TokenSpec, load
from watcher.simulator.server import application, bind, certificate, make_server
from watcher.simulator.state import Simulator
from watcher.simulator.store import StateError

if TYPE_CHECKING:
    import socket
    import ssl

FILE = click.Path(dir_okay=False, path_type=Path)


@dataclass(frozen=True)
class Place:
    """Where it listens and how clients reach it."""

    listening: socket.socket
    tls: ssl.SSLContext | None
    ca: Path | None
    host: str

    @property
    def url(self) -> str:
        """Where it answers."""
        port = self.listening.getsockname()[1]
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{port}"


@click.command()
@click.option("--config", type=FILE, help="The scenario, a YAML file. Default: the built-in scenario.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8580,
    show_default=True,
    help="The port to listen on; 0: any free port.",
)
@click.option("--tls", is_flag=True, help="Serve https, with a certificate of a CA of its own.")
@click.option("--tls-dir", type=click.Path(file_okay=False, path_type=Path), help="Keep the CA here; implies --tls.")
@click.option("--state", type=FILE, help="Keep the runs in this file; they survive a crash.")
@click.option("--speed", type=click.FloatRange(0, 1e6, min_open=True), help="Run the scenario this many times faster.")
@click.option("--offset", type=float, help="Seconds by which the simulated clock differs from the real one.")
@click.option("--token", help="The only valid token, instead of those in the scenario.")
@click.option("--remote-control", is_flag=True, help="Let other hosts use /_simulator; it has no password.")
def simulate(
    config: Path | None,
    host: str,
    port: int,
    tls: bool,
    tls_dir: Path | None,
    state: Path | None,
    speed: float | None,
    offset: float | None,
    token: str | None,
    remote_control: bool,
) -> None:
    """Run a simulated dbt Cloud on this machine.

    Its token is `dbt-simulator-token`, unless the scenario sets another one.
    """
    try:
        scenario = load(config) if config else Scenario()
        if token:
            scenario.tokens = [TokenSpec(token=token)]
        simulator = Simulator(scenario, Clock(), state)
        simulator.set_clock(speed, offset)
        ca_dir = tls_dir or (Path(tempfile.mkdtemp(prefix="dbt-simulator-")) if tls else None)
        context, ca = certificate(ca_dir, (host,)) if ca_dir else (None, None)
        place = Place(bind(host, port), context, ca, host)
    except (ScenarioError, StateError) as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        raise click.UsageError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port.") from None
    asyncio.run(_serve(simulator, place, remote_control=remote_control))


async def _serve(simulator: Simulator, place: Place, *, remote_control: bool) -> None:
    ca = f", CA {place.ca}" if place.ca else ""

    def ready() -> None:
        # Here, where the loop runs: the sender is a task. And after the socket listens, as a receiver may ask the API
        # at once.
        simulator.webhooks.start()
        click.echo(f"dbt Cloud simulator: {place.url}, account {simulator.account.spec.id}{ca}")

    server = make_server(application(simulator, remote_control=remote_control), place.tls, ready)

    def stop() -> None:
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    await server.serve([place.listening])
    simulator.close()
