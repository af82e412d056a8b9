"""What can befall a watcher at each of its side effects, which are counted as they happen and never listed by hand."""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NoReturn, TypeVar, cast, get_type_hints

import httpx

from dbtrun.api import Job, Overrides
from dbtrun.connection.secret import Connection, Token
from dbtrun.kube.errors import KubeError
from watcher.dbtcloud.client import Client
from watcher.dbtcloud.errors import DbtCloudError
from watcher.perform import Objects

T = TypeVar("T")

READS: Final = frozenset({"get"})
"""Methods of `Objects` that change nothing. Any other, a new one too, is a side effect."""
TRAVEL: Final = 0.02
"""Seconds that a request, or its answer, is on its way."""
STALL: Final = 180.0
"""Seconds: longer than the quiet period."""


class Mishap(StrEnum):
    """What happens at one side effect."""

    DIES_BEFORE = "the watcher dies before"
    DIES_AFTER = "the watcher dies after"
    NEVER_ARRIVES = "the request is lost"
    ANSWER_LOST = "the answer is lost"
    OVERTAKEN = "somebody else writes before"
    STALLS = "the watcher stands still for minutes before"
    REDIRECTED = "the connection is for another account from before"
    UNDONE = "the status goes back to how it was two versions ago before"
    UNMADE = "the status goes back to how it was at first before"
    RESTORED = "the watcher dies, and the status goes back to how it was two versions ago, after"
    EMPTIED = "the watcher dies, and the status goes back to how it was at first, after"
    COPIED = "a copy with its status appears beside the object before"
    COPIED_BARE = "a copy without its status appears beside the object before"
    REPLACED = "the object comes back with another uid and with its status before"
    REPLACED_BARE = "the object comes back with another uid and without its status before"
    MOVED = "the watcher dies, and the object comes back with another uid and with its status, after"
    MOVED_BARE = "the watcher dies, and the object comes back with another uid and without its status, after"


DEATHS: Final = (Mishap.DIES_BEFORE, Mishap.DIES_AFTER)
RESTORES: Final = {Mishap.RESTORED: 2, Mishap.EMPTIED: None}
"""A backup that is so many versions old, or the oldest, is restored, and the watcher begins anew."""
UNDOINGS: Final = {Mishap.UNDONE: 2, Mishap.UNMADE: None}
"""The same under a watcher that goes on."""
COPIES: Final = (Mishap.COPIED, Mishap.COPIED_BARE)
"""The object stays, and there is a second one that was made of it."""
REPLACEMENTS: Final = (Mishap.REPLACED, Mishap.REPLACED_BARE, Mishap.MOVED, Mishap.MOVED_BARE)
"""Velero restores the object where it was, or in another cluster."""
BARE: Final = frozenset({Mishap.COPIED_BARE, Mishap.REPLACED_BARE, Mishap.MOVED_BARE})
BEFORE: Final = frozenset(
    {Mishap.OVERTAKEN, Mishap.REDIRECTED, *UNDOINGS, *COPIES, Mishap.REPLACED, Mishap.REPLACED_BARE}
)
"""What happens to the world before the effect, under a watcher that goes on."""
AFTER: Final = frozenset({*RESTORES, Mishap.MOVED, Mishap.MOVED_BARE})
"""What happens to the world after the effect, and the watcher dies."""


@dataclass(frozen=True, slots=True)
class Blow:
    """A mishap at the side effect of this number, counting from 0."""

    step: int
    mishap: Mishap

    @property
    def restores(self) -> bool:
        """Whether the status goes back."""
        return self.mishap in {*UNDOINGS, *RESTORES}

    @property
    def replaces(self) -> bool:
        """Whether there is another object in the place of the first one."""
        return self.mishap in REPLACEMENTS

    def __str__(self) -> str:
        return f"{self.mishap} effect {self.step}"


@dataclass(slots=True)
class Fate:
    """One watcher's: it may be struck once."""

    blow: Blow | None = None
    befall: Callable[[Mishap], None] = lambda _mishap: None
    """What happens to the world, rather than to the watcher."""
    effects: list[str] = field(default_factory=list)
    dead: asyncio.Event = field(default_factory=asyncio.Event)
    struck: bool = False

    async def meet(self, name: str, act: Callable[[], Awaitable[T]], lost: Callable[[], Exception]) -> T:
        """Carries out one side effect, or what fate has in store for it."""
        if self.dead.is_set():
            await self._die()
        mishap = self.blow.mishap if self.blow and self.blow.step == len(self.effects) else None
        self.struck = self.struck or mishap is not None
        self.effects.append(name)
        match mishap:
            case Mishap.DIES_BEFORE:
                await self._die()
            case Mishap.NEVER_ARRIVES:
                raise lost()
            case Mishap.STALLS:
                await asyncio.sleep(STALL)
            case _ if mishap in BEFORE:
                self.befall(mishap)
        answer = await act()
        match mishap:
            case Mishap.DIES_AFTER:
                await self._die()
            case Mishap.ANSWER_LOST:
                raise lost()
            case _ if mishap in AFTER:
                self.befall(mishap)
                await self._die()
        return answer

    async def _die(self) -> NoReturn:
        """As a process dies: not an exception that somebody could handle, but no further instruction."""
        self.dead.set()
        await asyncio.Event().wait()
        raise AssertionError("nothing sets that event")


def fateful_objects(objects: Objects, fate: Fate) -> Objects:
    """The same objects; every write meets its fate."""
    return cast(Objects, _FatefulObjects(objects, fate))


class _FatefulObjects:
    def __init__(self, objects: Objects, fate: Fate) -> None:
        self._objects, self._fate = objects, fate

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method: Callable[..., Awaitable[Any]] = getattr(self._objects, name)
        if name in READS:
            return method

        async def fateful(*arguments: Any) -> Any:
            lost = KubeError("The API server's answer is lost.")
            return await self._fate.meet(f"object.{name}", lambda: travel(method(*arguments)), lambda: lost)

        return fateful


async def travel(act: Awaitable[T]) -> T:
    """Neither a request nor its answer is there at once: in between others act."""
    await asyncio.sleep(TRAVEL)
    answer = await act
    await asyncio.sleep(TRAVEL)
    return answer


class FatefulTransport(httpx.AsyncBaseTransport):
    """The same network; every request that changes something meets its fate."""

    def __init__(self, transport: httpx.AsyncBaseTransport, fate: Fate) -> None:
        self._transport, self._fate = transport, fate

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return await self._transport.handle_async_request(request)
        return await self._fate.meet(
            shape(request),
            lambda: travel(self._transport.handle_async_request(request)),
            lambda: httpx.ReadError("The connection is lost."),
        )


def shape(request: httpx.Request) -> str:
    """A request without its ids, as `POST runs/*/cancel/`."""
    path = re.sub(r"\d+", "*", request.url.path.removeprefix("/api/v2/accounts/"))
    return f"{request.method} {path.removeprefix('*/')}"


# ── every side effect that the code has ──


async def all_effects() -> set[str]:
    """What a watcher can do to the outside, found in the code itself: nothing new escapes."""
    writes = {
        f"object.{name}"
        for name, member in vars(Objects).items()
        if inspect.isfunction(member) and not name.startswith("_") and name not in READS
    }
    return writes | await _changing_requests()


async def _changing_requests() -> set[str]:
    """Every public method of the client is called once; what it sends beside GETs changes something."""
    sent: set[str] = set()

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method != "GET":
            sent.add(shape(request))
        return httpx.Response(500, text=json.dumps({}))

    connection = Connection(host="127.0.0.1", account_id=1, token=Token("t"), tls=False)
    async with Client(connection, transport=httpx.MockTransport(answer)) as client:
        for name, method in inspect.getmembers(client, inspect.iscoroutinefunction):
            if not name.startswith("_") and name != "close":
                await _call(method)
    return sent


async def _call(method: Callable[..., Awaitable[object]]) -> None:
    known: dict[str, Any] = {
        "int": 1, "str": "x", "datetime": datetime.now(UTC), "Overrides": Overrides(), "Job": Job(id=1),
        "Sequence": [1], "int | None": 1, "bool": True,
    }  # fmt: skip
    hints = get_type_hints(method)
    arguments = {
        name: known[getattr(hints[name], "__name__", str(hints[name]))]
        for name, parameter in inspect.signature(method).parameters.items()
        if parameter.default is parameter.empty
    }
    try:
        await method(**arguments)
    except DbtCloudError:
        return
