"""What a server that a Secret names as "dbt Cloud" may do to the watcher, by name, and what its own objects then read.

Each attack has a port of its own. Whatever it does, the objects of others must not notice.
"""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import os
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any, Final

import trustme

from dbtrun.api import Reason
from tests.hostile.replies import honest, http, listing, refusal, run
from tests.hostile.wire import FATAL_ALERT, GARBAGE_RECORD, Request, Wire

FOREVER: Final = 3_600.0
NESTED: Final = b"[" * 200_000 + b"]" * 200_000

Play = Callable[[Wire], Awaitable[None]]


class Level(StrEnum):
    """Where it hits."""

    TCP = "tcp"
    TLS = "tls"
    HTTP = "http"
    JSON = "json"
    MEANING = "meaning"


@dataclass(frozen=True, slots=True)
class Attack:
    """What happens to each connection of the client."""

    level: Level
    play: Play
    reason: Reason
    """Of the condition `Reachable` of an object that follows a run there."""
    tls: bool = False
    trusted: bool = True
    """Whether the Secret has the CA."""


# ── how to say it ──


def answers(reply: Callable[[Request], bytes] | bytes) -> Play:
    """Each request gets this."""

    async def play(wire: Wire) -> None:
        while (request := await wire.request()) is not None:
            await wire.send(reply if isinstance(reply, bytes) else reply(request))

    return play


def streams(head: bytes, pieces: Callable[[], AsyncIterator[bytes]]) -> Play:
    """Each request gets this head, and pieces without end."""

    async def play(wire: Wire) -> None:
        while await wire.request() is not None:
            await wire.send(head)
            async for piece in pieces():
                await wire.send(piece)

    return play


def says(data: bytes, *, then_reset: bool = False) -> Play:
    """Says this at once, without being asked."""

    async def play(wire: Wire) -> None:
        await wire.raw(data)
        if then_reset:
            wire.reset()

    return play


def changed(change: Callable[[Request, dict[str, Any]], Any]) -> Play:
    """An honest reply, but for a change; None: no change."""

    def reply(request: Request) -> bytes:
        status, body = honest(request)
        told = change(request, body)
        return http(body if told is None else told, f"{status} Whatever")

    return answers(reply)


def runs_are(**changes: Any) -> Play:
    """Every run that is told of is like this."""

    def change(_request: Request, body: dict[str, Any]) -> None:
        data = body.get("data")
        for each in data if isinstance(data, list) else [data]:
            if isinstance(each, dict) and "status" in each:
                each.update(changes)

    return changed(change)


def always(data: Callable[[], bytes], status: str = "200 OK", *headers: str) -> Play:
    """Each request gets this body, made when it is first needed."""
    made = cache(data)
    return answers(lambda _request: http(made(), status, *headers))


async def endless(piece: bytes, pause: float = 0.0) -> AsyncIterator[bytes]:
    while True:
        yield piece
        await asyncio.sleep(pause)


def compressed(layers: int, size: int) -> bytes:
    """`size` MiB of zeros."""
    press = zlib.compressobj(9, zlib.DEFLATED, 31)
    out = b"".join(press.compress(bytes(1 << 20)) for _ in range(size)) + press.flush()
    for _ in range(layers - 1):
        out = gzip.compress(out)
    return out


# ── TLS ──


@cache
def authority() -> trustme.CA:
    return trustme.CA()


@cache
def context(name: str = "localhost", *, known: bool = True) -> ssl.SSLContext:
    issuer = authority() if known else trustme.CA()
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issuer.issue_cert(name).configure_cert(made)
    return made


def shakes(then: Play, name: str = "localhost", *, known: bool = True) -> Play:
    """A handshake, and what comes after it."""

    async def play(wire: Wire) -> None:
        await wire.secure(context(name, known=known))
        await then(wire)

    return play


def asked_then_raw(*data: bytes, first: bytes = b"") -> Play:
    """After a request: some of a reply within TLS, and then bytes outside of it."""

    async def play(wire: Wire) -> None:
        await wire.request()
        if first:
            await wire.send(first)
        for each in data:
            await wire.raw(each)
        await asyncio.sleep(1)

    return play


async def silent(wire: Wire) -> None:
    await asyncio.sleep(FOREVER)
    await wire.receive()


async def closes(wire: Wire) -> None:
    wire.writer.close()


async def resets(wire: Wire) -> None:
    wire.reset()


async def closes_when_asked(wire: Wire) -> None:
    await wire.request()


async def resets_when_asked(wire: Wire) -> None:
    await wire.request()
    wire.reset()


async def drips(wire: Wire) -> None:
    await wire.request()
    async for piece in endless(b"H", 0.5):
        await wire.send(piece)


async def floods(wire: Wire) -> None:
    async for piece in endless(bytes(1 << 16)):
        await wire.raw(piece)


async def half_then_reset(wire: Wire) -> None:
    await wire.request()
    await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    await asyncio.sleep(0.1)
    wire.reset()


async def half_then_close(wire: Wire) -> None:
    await wire.request()
    await wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")


def answered_once(reply: bytes) -> Play:
    """One request to a connection gets this."""

    async def play(wire: Wire) -> None:
        await wire.request()
        await wire.send(reply)

    return play


async def plain_http(wire: Wire) -> None:
    await wire.raw(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


LOST: Final = Reason.UNREACHABLE
ODD: Final = Reason.SERVER_ERROR
WELL: Final = Reason.ANSWERING

TCP: Final[dict[str, tuple[Play, Reason]]] = {
    "closes at once": (closes, LOST),
    "resets at once": (resets, LOST),
    "is silent": (silent, LOST),
    "closes when asked": (closes_when_asked, LOST),
    "resets when asked": (resets_when_asked, LOST),
    "drips a status line": (drips, LOST),
    "resets in the middle": (half_then_reset, LOST),
    "closes in the middle": (half_then_close, LOST),
    "floods with zeros": (floods, LOST),
    "speaks SSH": (says(b"SSH-2.0-OpenSSH_9.9 secret\r\n"), LOST),
    "speaks binary": (says(b"\x00\x01\x02garbage\r\n\r\n"), LOST),
    "answers before it is asked": (says(http(listing([])), then_reset=True), LOST),
    "speaks HTTP/2": (says(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + bytes(18)), LOST),
    "speaks HTTP/0.9": (answers(b"<html>hello</html>"), LOST),
}

TLS: Final[dict[str, tuple[Play, Reason]]] = {
    "garbage record after the request": (shakes(asked_then_raw(GARBAGE_RECORD)), LOST),
    "plain HTTP after the request": (shakes(asked_then_raw(b"HTTP/1.1 200 OK\r\n\r\n")), LOST),
    "garbage record in the body": (
        shakes(asked_then_raw(GARBAGE_RECORD, first=b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")),
        LOST,
    ),
    "fatal alert after the request": (shakes(asked_then_raw(FATAL_ALERT)), LOST),
    "end without a notice": (
        shakes(asked_then_raw(first=b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")),
        LOST,
    ),
    "no TLS at all": (plain_http, LOST),
    "garbage instead of a handshake": (says(b"\x16\x03\x03\xff\xff" + b"\xaa" * 1000), LOST),
    "alert instead of a handshake": (says(FATAL_ALERT), LOST),
    "handshake without end": (silent, LOST),
    "closes in the handshake": (closes, LOST),
    "certificate of another host": (shakes(answers(b""), "elsewhere.example"), LOST),
    "certificate of an unknown CA": (shakes(answers(b""), known=False), LOST),
    "nested JSON over TLS": (shakes(answers(http(NESTED))), ODD),
    "garbage after an honest reply": (
        shakes(asked_then_raw(GARBAGE_RECORD, first=http(listing([run()], pk__in=[1])))),
        WELL,
    ),
}

ONE: Final = http(listing([run()], pk__in=[1]))

HTTP: Final[dict[str, tuple[Play, Reason]]] = {
    "5,000 times 100 Continue": (answers(b"HTTP/1.1 100 Continue\r\n\r\n" * 5_000), LOST),
    "100 Continue without end": (
        streams(b"", lambda: endless(b"HTTP/1.1 100 Continue\r\n\r\n" * 100, 0.01)),
        LOST,
    ),
    "101 Switching Protocols": (
        answers(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
        LOST,
    ),
    "200 kB of headers": (answers(http(b"{}", "200 OK", *(f"X-{n}: {'a' * 1000}" for n in range(200)))), LOST),
    "headers without end": (streams(b"HTTP/1.1 200 OK\r\n", lambda: endless(b"X: y\r\n" * 100)), LOST),
    "a header of nulls": (answers(b"HTTP/1.1 200 OK\r\nX: \x00\x00\r\n\r\n"), LOST),
    "status 999": (answers(http(b"x", "999 What")), ODD),
    "204 without a body": (answers(b"HTTP/1.1 204 No Content\r\n\r\n"), ODD),
    "length and chunks together": (
        answers(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
        ODD,
    ),
    "two lengths": (answers(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"), LOST),
    "negative length": (answers(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nhello!"), LOST),
    "length of 10 GB": (
        streams(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n", lambda: endless(b" " * 65_536)),
        ODD,
    ),
    "shorter than it says": (answered_once(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 200 OK\r\n"), ODD),
    "chunks of no size": (answers(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n"), LOST),
    "chunks of one byte": (
        streams(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", lambda: endless(b"1\r\n \r\n" * 1000)),
        ODD,
    ),
    "chunks without end": (
        streams(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            lambda: endless(b"10000\r\n" + b" " * 65_536 + b"\r\n"),
        ),
        ODD,
    ),
    "a body that drips": (
        streams(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", lambda: endless(b" ", 0.5)),
        LOST,
    ),
    "an error of 100 MB": (
        streams(b"HTTP/1.1 500 Oops\r\nContent-Length: 100000000\r\n\r\n", lambda: endless(b" " * 65_536)),
        ODD,
    ),
    "gzip bomb": (always(lambda: compressed(1, 256), "200 OK", "Content-Encoding: gzip"), ODD),
    "gzip bomb in a gzip bomb": (always(lambda: compressed(2, 256), "200 OK", "Content-Encoding: gzip, gzip"), ODD),
    "deflate of garbage": (answers(http(b"\x1f\x8bgarbage", "200 OK", "Content-Encoding: deflate")), ODD),
    "brotli": (answers(http(b"\x1f\x8bgarbage", "200 OK", "Content-Encoding: br")), ODD),
    "an encoding that nobody knows": (answers(http(b"{}", "200 OK", "Content-Encoding: rot13")), ODD),
    "redirect to another host": (answers(http(b"", "307 Go", "Location: https://evil.example/")), LOST),
    "redirect to no address": (answers(http(b"", "302 Go", "Location: http://[::1")), LOST),
    "redirect to itself": (answers(http(b"", "301 Go", "Location: /")), LOST),
    "cookies": (
        answers(
            lambda request: http(honest(request)[1], "200 OK", *(f"Set-Cookie: c{n}=v; Path=/" for n in range(500)))
        ),
        WELL,
    ),
    "429 for 5,000 digits of seconds": (
        answers(http(b"{}", "429 Slow", "Retry-After: " + "9" * 5_000)),
        Reason.RATE_LIMITED,
    ),
    "429 until an impossible date": (
        answers(http(b"{}", "429 Slow", "Retry-After: Mon, 99 Foo 99999999999 99:99:99 +9999999999")),
        Reason.RATE_LIMITED,
    ),
    "401 for ever": (answers(http(refusal(401), "401 No")), Reason.UNAUTHORIZED),
    "403 for ever": (answers(http(refusal(403), "403 No")), Reason.FORBIDDEN),
    "an impossible Date": (
        answers(lambda request: http(honest(request)[1], "200 OK", "Date: Mon, 99 Foo 9999 99:99:99 +9999")),
        WELL,
    ),
    "Date of the year 9999": (
        answers(lambda request: http(honest(request)[1], "200 OK", "Date: Fri, 31 Dec 9999 23:59:59 GMT")),
        WELL,
    ),
    "Date of the year 1": (
        answers(lambda request: http(honest(request)[1], "200 OK", "Date: Mon, 01 Jan 0001 00:00:00 +2359")),
        WELL,
    ),
}

JSON: Final[dict[str, tuple[Play, Reason]]] = {
    "nothing": (answers(http(b"")), ODD),
    "null": (answers(http(b"null")), ODD),
    "a list": (answers(http(b"[1, 2]")), ODD),
    "a text": (answers(http(b'"hello"')), ODD),
    "an HTML page": (answers(http(b"<html><title>secret</title></html>")), ODD),
    "half of it": (answers(lambda request: http(json.dumps(honest(request)[1]).encode()[:-20])), ODD),
    "two of it": (answers(lambda request: http(json.dumps(honest(request)[1]).encode() * 2)), ODD),
    "UTF-16": (answers(lambda request: http(json.dumps(honest(request)[1]).encode("utf-16"))), ODD),
    "nested": (always(lambda: NESTED), ODD),
    "nested under a key that nobody reads": (always(lambda: b'{"x":' + NESTED + b',"data":[]}'), ODD),
    "nested in an error": (
        always(lambda: b'{"status":{"code":400},"data":' + NESTED[185_000:215_000] + b"}", "400 No"),
        Reason.SERVER_ERROR,
    ),
    "nested objects": (always(lambda: b'{"data":' * 300_000 + b"1" + b"}" * 300_000), ODD),
    "a number of 5,000 digits": (
        always(lambda: b'{"data":[{"id":' + b"1" * 5_000 + b',"account_id":7,"status":3}]}'),
        ODD,
    ),
    "NaN": (always(lambda: b'{"data":[{"id":NaN,"account_id":Infinity,"status":1}]}'), ODD),
    "480,000 runs": (
        always(
            lambda: (
                b'{"data":[' + b",".join(b'{"id":%d,"account_id":7,"status":10}' % n for n in range(480_000)) + b"]}"
            )
        ),
        ODD,
    ),
    "100,000 runs": (
        always(
            lambda: b'{"data":[' + b",".join(b'{"id":%d,"account_id":7,"status":1}' % n for n in range(100_000)) + b"]}"
        ),
        ODD,
    ),
    "101 runs": (always(lambda: json.dumps(listing([run(n + 1) for n in range(101)])).encode()), ODD),
    "2,000,000 numbers": (always(lambda: b'{"data":[' + b"1," * 2_000_000 + b"1]}"), ODD),
    "200,000 filters": (
        changed(lambda _request, body: body.update(extra={"filters": {str(n): n for n in range(200_000)}})),
        WELL,
    ),
    "a text of 3 MB": (runs_are(status_message="\x1b[31m" * 500_000), WELL),
    "lone surrogates": (runs_are(status_message="\ud800 \udfff"), ODD),
    "200,000 steps": (runs_are(run_steps=[{"index": n, "status": 3} for n in range(100_000)]), WELL),
    "an envelope of other types": (
        changed(lambda _request, _body: {"status": [], "data": {"id": []}, "extra": 5}),
        ODD,
    ),
}


def _flips() -> Play:
    """A run that is over, and goes on, and is over."""
    states = itertools.cycle([3, 3, 1, 3])
    return changed(lambda _request, body: [each.update(status=next(states)) for each in _runs(body)] and None)


def _runs(body: dict[str, Any]) -> list[dict[str, Any]]:
    data = body.get("data")
    return [
        each for each in (data if isinstance(data, list) else [data]) if isinstance(each, dict) and "status" in each
    ]


def _names(items: Callable[[], list[dict[str, Any]]], total: int) -> Play:
    """Projects, environments and jobs are these."""
    made = cache(lambda: json.dumps(listing(items(), total)).encode())

    def reply(request: Request) -> bytes:
        named = "projects/" in request.path or request.path.endswith("jobs/")
        return http(made()) if named else http(honest(request)[1])

    return answers(reply)


def _started_as(**changes: Any) -> Play:
    """A start is answered with another run than was asked for."""

    def change(request: Request, body: dict[str, Any]) -> None:
        if request.method == "POST":
            body["data"].update(changes)

    return changed(change)


def _missing(request: Request, body: dict[str, Any]) -> Any:
    """No list names any run."""
    return listing([], pk__in=request.ids) if isinstance(body.get("data"), list) else None


MEANING: Final[dict[str, tuple[Play, Reason]]] = {
    "a run of another number": (
        changed(lambda _request, body: [each.update(id=99) for each in _runs(body)] and None),
        ODD,
    ),
    "a negative number": (changed(lambda _request, body: [each.update(id=-1) for each in _runs(body)] and None), ODD),
    "a number beyond 64 bits": (
        changed(lambda _request, body: [each.update(id=2**70) for each in _runs(body)] and None),
        ODD,
    ),
    "a project beyond 64 bits": (runs_are(project_id=2**64 - 1), WELL),
    "an account of another number": (runs_are(account_id=8), WELL),
    "times of the year 9999": (
        runs_are(created_at="9999-12-31T23:59:59-23:59", started_at="9999-12-31 23:59:59+00:00"),
        WELL,
    ),
    "times of the year 1": (runs_are(created_at="0001-01-01T00:00:00+23:59", started_at="0001-01-01"), WELL),
    "a status that nobody knows": (runs_are(status=77, in_progress=False), ODD),
    "a status beyond 64 bits": (runs_are(status=2**62, in_progress=False), ODD),
    "a status that goes back and forth": (_flips(), WELL),
    "a run that no list names": (changed(_missing), WELL),
    "filters that are ignored": (
        changed(
            lambda request, _body: (
                listing([run(n + 1) for n in range(100)], 100) if request.path.endswith("/runs/") else None
            )
        ),
        WELL,
    ),
    "lists without end": (
        changed(
            lambda request, _body: (
                listing([run(n + 1) for n in range(100)], 10**9) if request.path.endswith("/runs/") else None
            )
        ),
        WELL,
    ),
    "an address elsewhere": (runs_are(href="https://localhost@evil.example/x"), WELL),
    "control characters": (runs_are(status_message="\x1b]0;x\x07\u202eevil\x00", status_humanized="\x1b[2J"), WELL),
    "steps of absurd numbers": (runs_are(run_steps=[{"index": 2**62, "status": -(2**62), "name": "x" * 9_999}]), WELL),
    "10,500 projects on a page": (
        _names(lambda: [{"id": n + 1, "name": f"{n:05}" + "x" * 200} for n in range(10_500)], 10_500),
        WELL,
    ),
    "deleted projects without end": (_names(lambda: [{"id": 1, "name": "x", "state": 2}] * 100, 10**9), WELL),
    "projects of long names without end": (_names(lambda: [{"id": 1, "name": "y" * 9_999}] * 100, 10**9), WELL),
    "a start of a negative number": (_started_as(id=-5), WELL),
    "a start of another job": (_started_as(job_definition_id=6, job_id=6), WELL),
    "a start of another account": (_started_as(account_id=9), WELL),
    "a start that is over at once": (_started_as(status=10), WELL),
}

ATTACKS: Final[dict[str, Attack]] = {
    f"{level}: {name}": Attack(
        level, play, reason, tls=level is Level.TLS, trusted=name != "certificate of an unknown CA"
    )
    for level, table in {
        Level.TCP: TCP,
        Level.TLS: TLS,
        Level.HTTP: HTTP,
        Level.JSON: JSON,
        Level.MEANING: MEANING,
    }.items()
    for name, (play, reason) in table.items()
}


def sampled(attacks: Mapping[str, Attack]) -> dict[str, Attack]:
    """Every second attack, and the first of each level with each reason."""
    firsts = {(attack.level, attack.reason): name for name, attack in reversed([*attacks.items()])}
    chosen = {*itertools.islice(attacks, 0, None, 2), *firsts.values()}
    return {name: attack for name, attack in attacks.items() if name in chosen}


CHOSEN: Final = ATTACKS if "LIVES" in os.environ else sampled(ATTACKS)
"""The attacks that are made: in `make hostile` all. Each costs a second of a processor."""
