"""What goes wrong on the way to dbt Cloud, on demand.

A rule says which requests it meets and what happens to them. The effects are the ones that clients of the real API
have reported: replies lost before or after the run was created, HTML from a proxy, a 429 that silences the whole
account, lists that lag behind.
"""

from __future__ import annotations

import random
import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

import anyio
import msgspec
from starlette.responses import Response, StreamingResponse

from watcher.simulator.scenario import Id, Seconds
from watcher.simulator.wire import SERVER_ERROR, ApiError, phrase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.types import Receive, Scope, Send

    from watcher.simulator.clock import Clock
    from watcher.simulator.model import Run

Code = Annotated[int, msgspec.Meta(ge=200, le=599)]
Bytes = Annotated[int, msgspec.Meta(ge=1, le=1 << 30)]


class Effect(msgspec.Struct, tag_field="type", forbid_unknown_fields=True, kw_only=True):
    """What a rule does."""


class Latency(Effect, tag="latency"):
    """Wait, then answer truly."""

    seconds: Seconds


class Hang(Effect, tag="hang"):
    """Never answer; the client gives up."""

    commit: bool = False  # do what was asked first


class Reply(Effect, tag="reply"):
    """Answer with a status of our choice. With `commit`, what was asked has been done all the same."""

    status: Code = 500
    body: Literal["enveloped", "bare", "html", "text", "empty"] = "bare"
    message: str = SERVER_ERROR
    headers: dict[str, str] = {}
    commit: bool = False

    def response(self) -> Response:
        """The answer itself."""
        match self.body:
            case "enveloped":
                return json_response(ApiError(self.status, self.message).body, self.status, self.headers)
            case "bare":
                return json_response({"detail": self.message}, self.status, self.headers)
            case "html":
                title = f"{self.status} {phrase(self.status)}"
                head, body = f"<head><title>{title}</title></head>", f"<body><center><h1>{title}</h1></center></body>"
                page = f"<html>{head}{body}</html>\r\n"
                return Response(page, self.status, self.headers, media_type="text/html")
            case "text":
                return Response(self.message, self.status, self.headers, media_type="text/plain")
            case "empty":
                return Response(b"", self.status, self.headers)


class RateLimit(Effect, tag="rate-limit"):
    """429, and the whole account stays silent for the cool-down."""

    # Documented: above the limit, all tokens of the account get 429 for five minutes.
    cooldown: Seconds = 300.0
    retry_after: bool = False  # the Administrative API does not document the header


class Drop(Effect, tag="drop"):
    """Close the connection without a reply, before or after the request took effect."""

    when: Literal["before", "after"] = "before"


class LateCommit(Effect, tag="late-commit"):
    """The reply is lost now, and the request takes effect only later."""

    seconds: Seconds


class Truncate(Effect, tag="truncate"):
    """Half of the true JSON."""


class Huge(Effect, tag="huge"):
    """A body of this many bytes."""

    size: Bytes = 64 * 1024 * 1024


class Slow(Effect, tag="slow"):
    """The true body, a few bytes at a time."""

    chunk: Bytes = 16
    seconds: Seconds = 0.5


class Redirect(Effect, tag="redirect"):
    """Send the client to another place, which may be another host."""

    location: str
    status: Literal[301, 302, 303, 307, 308] = 307


class IgnoreFilters(Effect, tag="ignore-filters"):
    """The named filters are neither applied nor echoed."""

    filters: list[str]


class ListLag(Effect, tag="list-lag"):
    """Runs younger than this are not in lists yet."""

    seconds: Seconds


class HideRuns(Effect, tag="hide-runs"):
    """These runs are in no list and give 404."""

    runs: list[Id]


class UnknownStatus(Effect, tag="unknown-status"):
    """Runs report this status code."""

    status: int


AnyEffect = (
    Latency
    | Hang
    | Reply
    | RateLimit
    | Drop
    | LateCommit
    | Truncate
    | Huge
    | Slow
    | Redirect
    | IgnoreFilters
    | ListLag
    | HideRuns
    | UnknownStatus
)
VIEW = (IgnoreFilters, ListLag, HideRuns, UnknownStatus)


class Rule(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Which requests it meets (all, if nothing is said), how often, and what it does."""

    effect: AnyEffect
    kinds: list[str] = []
    method: str | None = None
    path: str | None = None  # regular expression, searched in the path
    times: Annotated[int, msgspec.Meta(ge=1)] | None = None  # null: until it is cleared
    probability: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        try:
            re.compile(self.path or "")
        except re.error as error:
            raise ValueError(f"path: not a regular expression: {error}.") from None


class Fault:
    """A rule in force."""

    def __init__(self, number: int, rule: Rule) -> None:
        self.number = number
        self.rule = rule
        self.hits = 0
        self._path = re.compile(rule.path or "")
        self._random = random.Random(rule.seed)  # noqa: S311 - a repeatable coin

    def fires(self, kind: str, method: str, path: str) -> bool:
        """Whether the rule applies to this request."""
        rule = self.rule
        if rule.times is not None and self.hits >= rule.times:
            return False
        if (rule.kinds and kind not in rule.kinds) or (rule.method and rule.method.upper() != method):
            return False
        # The coin is thrown last, only for requests that match: so a seed gives the same faults whatever else is asked.
        if not self._path.search(path) or self._random.random() >= rule.probability:
            return False
        self.hits += 1
        return True


class View(msgspec.Struct):
    """How a faulty server sees its own runs."""

    ignored: set[str] = msgspec.field(default_factory=set)
    hidden: set[int] = msgspec.field(default_factory=set)
    lag: float = 0.0
    status: int | None = None

    def listed(self, run: Run, real: float) -> bool:
        """Whether a list shows the run already."""
        return run.id not in self.hidden and real - run.created_real >= self.lag


class Faults:
    """The rules, and the silence that a rate limit leaves behind."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._next = 1
        self.active: list[Fault] = []
        self.silent_until = 0.0
        self._retry_after = False

    def add(self, rule: Rule) -> Fault:
        """Adds a rule."""
        fault = Fault(self._next, rule)
        self._next += 1
        self.active.append(fault)
        return fault

    def clear(self, number: int | None = None) -> None:
        """Lift one rule, or all of them together with the silence."""
        self.active = [] if number is None else [fault for fault in self.active if fault.number != number]
        if number is None:
            self.silent_until = 0.0

    def meet(self, kind: str, method: str, path: str) -> list[AnyEffect]:
        """The effects that hit a request."""
        return [fault.rule.effect for fault in self.active if fault.fires(kind, method, path)]

    def limit(self, effect: RateLimit) -> None:
        """Refuses all requests from now on, until the cool-down is over."""
        # In real seconds: clients wait in them, whatever the scenario's speed is.
        self.silent_until = self._clock.real() + effect.cooldown
        self._retry_after = effect.retry_after

    def silence(self) -> Response | None:
        """The 429 of an account that has asked too much; None when it may speak."""
        left = self.silent_until - self._clock.real()
        if left <= 0:
            return None
        headers = {"Retry-After": str(int(left) + 1)} if self._retry_after else {}
        return json_response(ApiError(429, "Too many requests.").body, 429, headers)


def view_of(effects: list[AnyEffect]) -> View:
    """What these effects make of lists and runs."""
    view = View()
    for effect in effects:
        match effect:
            case IgnoreFilters(filters=filters):
                view.ignored.update(filters)
            case HideRuns(runs=runs):
                view.hidden.update(runs)
            case ListLag(seconds=seconds):
                view.lag = max(view.lag, seconds)
            case UnknownStatus(status=status):
                view.status = status
            case _:
                pass
    return view


async def suffer(
    effect: AnyEffect, faults: Faults, answer: Callable[[], Awaitable[Response]], later: Callable[[float], None]
) -> Response:
    """The reply under one effect. `answer` does what was asked; `later` does it after so many seconds."""
    match effect:
        case Hang(commit=commit):
            return await _after(answer, Hung(), commit=commit)
        case Reply():
            return await _after(answer, effect.response(), commit=effect.commit)
        case RateLimit():
            faults.limit(effect)
            # A cool-down of 0 s ends before it can be reported.
            return faults.silence() or await answer()
        case Drop(when=when):
            return await _after(answer, Dropped(), commit=when == "after")
        case LateCommit(seconds=seconds):
            # What a lost reply cannot exclude: the run appears after the client has looked for it and found nothing.
            later(seconds)
            return Dropped()
        case Redirect():
            # A client that follows this sends its token to another host, or its POST a second time.
            return Response(status_code=effect.status, headers={"Location": effect.location})
        case Huge(size=size):
            return StreamingResponse(_huge(size), media_type="application/json")
        case Truncate():
            whole = await answer()
            # With the Content-Length of the half: to HTTP the reply is complete, so only decoding it shows what is
            # missing.
            return Response(bytes(whole.body)[: len(whole.body) // 2], whole.status_code, media_type="application/json")
        case Slow():
            return _slow(await answer(), effect)
        case _:
            return await answer()


async def _after(answer: Callable[[], Awaitable[Response]], response: Response, *, commit: bool) -> Response:
    if commit:
        await answer()
    return response


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A reply in JSON."""
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")


async def _huge(size: int) -> AsyncIterator[bytes]:
    head, tail, block = b'{"data": "', b'"}', b"x" * 65536
    yield head
    for start in range(0, max(size - len(head) - len(tail), 0), len(block)):
        yield block[: size - len(head) - len(tail) - start]
    yield tail


def _slow(whole: Response, effect: Slow) -> Response:
    async def drip() -> AsyncIterator[bytes]:
        body = bytes(whole.body)
        for start in range(0, len(body), effect.chunk):
            yield body[start : start + effect.chunk]
            await anyio.sleep(effect.seconds)

    return StreamingResponse(drip(), whole.status_code, media_type="application/json")


async def disconnected(receive: Receive) -> None:
    """Waits until the client has gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Hung(Response):
    """No reply, for as long as the client waits."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await disconnected(receive)


class Dropped(Response):
    """The connection goes down without a byte of reply."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Not just a return: for an application that returns without a reply, uvicorn sends a 500.
        scope["state"]["abort"]()
        await disconnected(receive)
