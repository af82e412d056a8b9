"""Feeds mutated replies of the simulator to the watcher's own client, and looks at what it makes of them."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import httpx
import trustme

from dbtrun.api import Job, Overrides, Results
from dbtrun.api.status import MAX_FAILURES, MAX_MESSAGE
from dbtrun.connection.secret import Connection, Token
from tests.chaos.wire import Wire
from tests.hostile.beats import blocks
from tests.hostile.memory import peak_mib
from tests.hostile.mutations import Reply, mutated, scrambled
from tests.hostile.replies import http
from tests.hostile.wire import GARBAGE_RECORD
from tests.hostile.wire import Wire as Line
from watcher.clock import MAX_OFFSET, system_clock
from watcher.dbtcloud.batch import Batch
from watcher.dbtcloud.client import Client
from watcher.dbtcloud.containment import Containment
from watcher.dbtcloud.errors import DbtCloudError, Surprise, Unauthorized
from watcher.dbtcloud.lookups import LookUps
from watcher.dbtcloud.wire import END, EPOCH, MAX_ID, MAX_READ_STEPS
from watcher.lifecycle.facts import Observation, RunFacts, Started
from watcher.simulator.scenario import JobSpec, Scenario
from watcher.simulator.server import application
from watcher.simulator.state import Simulator

HOST: Final = "127.0.0.1"
SOCKETS: Final = 0.1
"""The part of all replies that comes over real sockets, half of them by TLS."""
ASKED: Final = 10
"""Questions to one client."""
Question = Callable[[Client], Awaitable[Any]]


class _Recording(httpx.AsyncBaseTransport):
    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner
        self.replies: list[Reply] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        headers = tuple((name, value) for name, value in response.headers.items() if name != "content-length")
        self.replies.append(Reply(response.status_code, headers, response.content))
        return response


@dataclass(slots=True)
class Corpus:
    """What the client asks, and the simulator's true replies to each question."""

    connection: Connection
    questions: dict[str, Question]
    replies: dict[str, list[Reply]]

    @classmethod
    async def record(cls) -> Corpus:
        """Asks a simulator that has runs of every kind."""
        jobs = [
            JobSpec(id=1, name="success", queue=0, start=0, run=0),
            JobSpec(id=2, name="failure", queue=0, start=0, run=0, outcomes=["error"]),
            JobSpec(id=3, name="endless", run=None),
        ]
        simulator = Simulator(Scenario(jobs=jobs))
        connection = Connection(
            host=HOST, account_id=simulator.account.spec.id, token=Token(next(iter(simulator.tokens))), tls=False
        )
        recording = _Recording(Wire(application(simulator)))
        async with Client(connection, transport=recording) as client:
            started = [await client.start(job, f"dbtrun:x/{job} by hand", Overrides()) for job in (1, 2, 3)]
            runs = [each.run.run_id for each in started if isinstance(each, Started)]
            assert len(runs) == 3
            simulator.account.advance()
            questions = _questions(runs)
            replies = {}
            for name, ask in questions.items():
                recording.replies = []
                with suppress(DbtCloudError):
                    await ask(client)
                replies[name] = recording.replies
        return cls(connection, questions, replies)


def _questions(runs: list[int]) -> dict[str, Question]:
    since = datetime.now().astimezone() - timedelta(hours=1)
    project = Job(name="success", project="Analytics", environment="Production")
    return {
        "runs": lambda client: client.runs(runs),
        "run": lambda client: client.run(runs[1], steps=True),
        "live": lambda client: client.live_runs(),
        "finished": lambda client: client.finished_since(since, 2),
        "marked": lambda client: _looked_up(client, since, marker="dbtrun:x/1"),
        "retries": lambda client: _looked_up(client, since, retried=runs[1]),
        "newest": lambda client: client.find_live(3),
        "count": lambda client: client.count_live(5),
        "named": lambda client: client.resolve_job(project),
        "misnamed": lambda client: client.resolve_job(
            Job(name="sucess", project="Analytics", environment="Production")
        ),
        "start": lambda client: client.start(1, "dbtrun:x/9", Overrides()),
        "retry": lambda client: client.retry(runs[1]),
        "cancel": lambda client: client.cancel(runs[2]),
        "results": lambda client: client.results(runs[1]),
        "builds": lambda client: client.builds(runs[1], 1 << 20, early=False),
        "file": lambda client: client.artifact(runs[0], "manifest.json", 1 << 20),
        "account": lambda client: client.check(),
    }


async def _looked_up(client: Client, since: datetime, marker: str = "", retried: int | None = None) -> Any:
    """As the client does, which begins only one list a second."""
    with LookUps(client._channel, system_clock).about(1, since, marker=marker, retried=retried) as question:
        return (await question.answer()).found


@dataclass(slots=True)
class _Lying:
    """A dbt Cloud whose replies to a question are the true ones, mutated; the last one again and again."""

    fuzz: Fuzz
    draw: random.Random = field(default_factory=random.Random)
    replies: Iterator[Reply] = field(default_factory=lambda: iter(()))
    last: Reply = field(default_factory=lambda: Reply(404, (), b""))

    def answer(self, _request: httpx.Request) -> httpx.Response:
        self.last = next(self.replies, self.last)
        reply = self.fuzz.made(self.last, self.draw)
        headers = [(name.encode(), value.encode("utf-8", "replace")) for name, value in reply.headers]
        return httpx.Response(reply.status, headers=headers, stream=httpx.ByteStream(reply.body))


@dataclass(slots=True)
class Fuzz:
    """One campaign."""

    corpus: Corpus
    seed: int
    replies: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    surprises: Counter[str] = field(default_factory=Counter)
    untrue: list[str] = field(default_factory=list)
    """Questions whose answer broke a bound."""
    lag: float = 0.0
    """The longest that the event loop was blocked, in seconds, without the time that the mutations take."""
    _spent: float = 0.0

    async def run(self, count: int) -> None:
        """Until so many replies were mutated."""
        beating = asyncio.create_task(self._beat())
        try:
            await self._in_memory(int(count * (1 - SOCKETS)))
            await self._by_socket(int(count * SOCKETS / 2), None)
            await self._by_socket(int(count * SOCKETS / 2), trustme.CA())
        finally:
            beating.cancel()

    @property
    def report(self) -> dict[str, Any]:
        return {
            "replies": self.replies, "seed": self.seed, "outcomes": dict(self.outcomes.most_common()),
            "surprises": dict(self.surprises), "broken_bounds": len(self.untrue),
            "longest_block_ms": round(1000 * self.lag),
            "peak_mib": peak_mib(),
        }  # fmt: skip

    async def _in_memory(self, count: int) -> None:
        number = 0
        while self.replies < count:
            lying = _Lying(self)
            async with Client(self.corpus.connection, transport=httpx.MockTransport(lying.answer)) as client:
                refused = self.outcomes["Unauthorized"]
                for _ in range(ASKED):
                    where = f"{self.seed}/{number}"
                    lying.draw = random.Random(where)  # noqa: S311 - drawn again by its seed
                    name = lying.draw.choice(list(self.corpus.questions))
                    lying.replies = iter(self.corpus.replies[name])
                    await self._ask(client, name, where)
                    number += 1
                    if self.outcomes["Unauthorized"] > refused:
                        break  # it asks no more for a while

    def made(self, reply: Reply, draw: random.Random) -> Reply:
        """The reply, mutated."""
        began = time.perf_counter()
        changed = mutated(reply, draw)
        self.replies += 1
        self._spent += time.perf_counter() - began
        return changed

    async def _by_socket(self, count: int, authority: trustme.CA | None) -> None:
        """Scrambles whole HTTP replies, and with TLS also what is on the wire."""
        draw = random.Random(f"{self.seed}/{authority is None}")  # noqa: S311
        replies = [each for kind in self.corpus.replies.values() for each in kind]

        context = None
        if authority is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert("localhost").configure_cert(context)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            line = Line(reader, writer)
            with suppress(OSError, ssl.SSLError, ValueError):
                if context is not None:
                    await line.secure(context)
                await line.request()
                self.replies += 1
                reply = draw.choice(replies)
                raw = http(reply.body, f"{reply.status} Whatever", "Connection: close")
                await line.send(scrambled(raw, draw) if draw.random() < 0.5 else scrambled(raw[:200], draw) + raw[200:])
                if context is not None and draw.random() < 0.5:
                    await line.raw(draw.choice((GARBAGE_RECORD, draw.randbytes(64))))
            writer.close()

        server = await asyncio.start_server(serve, HOST, 0)
        port = server.sockets[0].getsockname()[1]
        connection = Connection(
            host=f"localhost:{port}",
            account_id=self.corpus.connection.account_id,
            token=self.corpus.connection.token,
            tls=authority is not None,
            ca=authority.cert_pem.bytes().decode() if authority else None,
        )
        names = [name for name in self.corpus.questions if name not in ("live", "finished")]
        goal = self.replies + count
        while self.replies < goal:
            name = draw.choice(names)
            client = Client(connection, total_seconds=5.0)
            await self._ask(client, name, f"{self.seed}/socket/{self.replies}")
            await client.close()
        server.close()

    async def _ask(self, client: Client, name: str, where: str) -> None:
        containment = Containment(self.corpus.connection, lambda: (where,), time.monotonic)
        try:
            with containment.contain(name):
                answer = await self.corpus.questions[name](client)
        except Surprise as error:
            self.surprises[f"{name}: {error.message}"] += 1
        except Unauthorized:
            self.outcomes["Unauthorized"] += 1
        except DbtCloudError as error:
            self.outcomes[type(error).__name__] += 1
        else:
            self.outcomes["answer"] += 1
            self.untrue += [f"{where} {name}: {broken}" for broken in broken_bounds(answer, client_url(client))]

    async def _beat(self) -> None:
        spent = self._spent
        async for block in blocks():
            self.lag = max(self.lag, block - (self._spent - spent))
            spent = self._spent


def client_url(client: Client) -> str:
    """The origin that its connection names."""
    return client._connection.base_url


def broken_bounds(answer: Any, base_url: str) -> Iterable[str]:
    """What in an answer of the client is out of the bounds that the rest of the watcher trusts."""
    if isinstance(answer, Batch):
        answer = tuple(answer.observations.values())
    if isinstance(answer, tuple):
        for each in answer:
            yield from broken_bounds(each, base_url)
    elif isinstance(answer, Observation | Started) and answer.run is not None:
        yield from _broken_run(answer.run, base_url)
    elif isinstance(answer, RunFacts):
        yield from _broken_run(answer, base_url)
    elif isinstance(answer, Results) and max(len(answer.failures), len(answer.counts) - 1) > MAX_FAILURES:
        yield "results"
    if isinstance(answer, Observation) and abs(answer.clock_offset) > MAX_OFFSET:
        yield "clock offset"


def _broken_run(run: RunFacts, base_url: str) -> Iterable[str]:
    for number in (run.run_id, run.project_id, run.environment_id, run.retrying_run_id, run.job_id or None):
        if number is not None and not 0 < number <= MAX_ID:
            yield f"number {number}"
    for moment in (run.created_at, run.started_at, run.finished_at):
        if moment is not None and not EPOCH <= moment < END:
            yield f"time {moment}"
    if run.url is not None and not run.url.startswith(f"{base_url}/"):
        yield f"address {run.url}"
    if len(run.message) > MAX_MESSAGE or len(run.steps or ()) > MAX_READ_STEPS:
        yield "length"


async def campaign(count: int, seed: int) -> Fuzz:
    """Mutates so many replies. Quiet: what it meets is counted."""
    logging.getLogger("watcher.dbtcloud").setLevel(logging.CRITICAL)
    fuzz = Fuzz(await Corpus.record(), seed)
    await fuzz.run(count)
    return fuzz
