"""Changes to true replies, at the levels of HTTP, bytes, JSON and meaning. Everything is drawn from one seed."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

NASTY: Final[tuple[Any, ...]] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    2**31,
    2**53 + 1,
    2**63 - 1,
    2**63,
    -(2**63) - 1,
    2**64,
    10**400,
    0.5,
    -0.0,
    1e308,
    "",
    " ",
    "null",
    "0",
    "-1",
    "1e5",
    "NaN",
    "9" * 400,
    "x" * 10_000,
    "\x00",
    "\x1b[2J\x1b]0;x\x07",
    "\u202e\ufeff",
    "\ud800",
    "9999-12-31T23:59:59-23:59",
    "0001-01-01T00:00:00+23:59",
    "2024-02-30",
    "1969-12-31 23:59:59",
    "https://a@b/",
    "../..",
    [],
    {},
    [[]],
    [{}],
    {"": ""},
    {"id": 1},
    [1, "a", None],
)
STATUSES: Final = (
    100,
    200,
    201,
    204,
    206,
    301,
    302,
    304,
    307,
    400,
    401,
    402,
    403,
    404,
    405,
    408,
    409,
    410,
    418,
    422,
    429,
    500,
    501,
    502,
    503,
    504,
    599,
)
HEADERS: Final = (
    ("Content-Encoding", ("gzip", "gzip, gzip", "identity", "br", "\x80", "")),
    ("Date", ("Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 +2359", "yesterday", "", "0" * 500)),
    ("Retry-After", ("-5", "9" * 5_000, "1e9", "NaN", "Mon, 99 Foo 99999999999 99:99:99 +9999999999", "", "٣")),
    ("Location", ("http://[::1", "https://evil.example/", "//x", "\x80", "http://x:99999999/")),
    ("Content-Type", ("text/html; charset=utf-7", "", "x" * 2_000)),
    ("Content-Length", ("5", "-1", "99999999999")),
    ("Set-Cookie", ("a=b", "a=b; Domain=.com; Expires=Thu, 01 Jan 9999 00:00:00 GMT")),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply of the simulator, or what became of it."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def mutated(reply: Reply, draw: random.Random) -> Reply:
    """The reply with one to four changes of one level."""
    change = draw.choice((_http, _bytes, _json, _json, _meaning, _meaning))
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        reply = change(reply, draw)
    return reply


def _http(reply: Reply, draw: random.Random) -> Reply:
    if draw.random() < 0.4:
        return replace(reply, status=draw.choice(STATUSES))
    name, values = draw.choice(HEADERS)
    return replace(reply, headers=(*reply.headers, (name, draw.choice(values))))


def scrambled(body: bytes, draw: random.Random) -> bytes:
    """Bytes flipped, cut out, doubled or put in."""
    changed = bytearray(body or b" ")
    at = draw.randrange(len(changed))
    length = min(draw.choice((1, 1, 2, 10, 1_000)), len(changed) - at)
    match draw.randrange(6):
        case 0:
            changed[at] ^= 1 << draw.randrange(8)
        case 1:
            del changed[at : at + length]
        case 2:
            changed[at:at] = changed[at : at + length] * draw.choice((1, 2, 100))
        case 3:
            changed[at:at] = draw.randbytes(length)
        case 4:
            changed[at:at] = draw.choice(
                (b"[" * 50_000, b'{"a":' * 20_000, b"\x00", b"\xff\xfe", b'"', b"1" * 5_000, b"]}")
            )
        case _:
            del changed[at:]
    return bytes(changed)


def _bytes(reply: Reply, draw: random.Random) -> Reply:
    return replace(reply, body=scrambled(reply.body, draw))


def _json(reply: Reply, draw: random.Random) -> Reply:
    """One place of the document holds something else, is gone, or is there many times."""

    def change(parent: Any, key: Any) -> None:
        match draw.randrange(6):
            case 0 | 1 | 2:
                parent[key] = draw.choice(NASTY)
            case 3:
                del parent[key]
            case 4 if isinstance(parent, list):
                parent[key:key] = [parent[key]] * draw.choice((1, 99, 101, 2_000))
            case 4:
                parent[f"{key}"[:-1]] = parent.pop(key)
            case _:
                parent[key] = draw.choice(([parent[key]], {"data": parent[key]}, [parent[key]] * 3))

    return _at_a_place(reply, draw, change)


def _meaning(reply: Reply, draw: random.Random) -> Reply:
    """Something that could be true is another thing that could be true."""
    words: dict[str, Callable[[Any], Any]] = {
        "id": lambda value: draw.choice((value, 1, 2, 99, 10**13)),
        "account_id": lambda _: draw.choice((1, 7, 10**13)),
        "status": lambda _: draw.choice((1, 2, 3, 10, 20, 30, 40, 0, -1)),
        "total_count": lambda _: draw.choice((0, 1, 50, 101, 10**9, -1)),
        "job_definition_id": lambda _: draw.choice((1, 2, None)),
        "in_progress": lambda _: draw.choice((True, False, None)),
        "code": lambda _: draw.choice((200, 400, 401, 500)),
        "is_success": lambda _: draw.choice((True, False, None)),
        "name": lambda _: draw.choice(("success", "Analytics", "Production", "", None)),
    }

    def change(parent: Any, key: Any) -> None:
        if key in words:
            parent[key] = words[key](parent[key])
        elif isinstance(key, str) and key.endswith("_at"):
            parent[key] = draw.choice(("2024-07-03 13:59:00+00:00", "2199-12-31 23:59:59Z", None, parent[key]))

    return _at_a_place(reply, draw, change)


def _at_a_place(reply: Reply, draw: random.Random, change: Callable[[Any, Any], None]) -> Reply:
    try:
        document = json.loads(reply.body)
    except ValueError:
        return _bytes(reply, draw)
    places = list(_places({"": document}))
    root = places[0][0]
    change(*draw.choice(places))
    return replace(reply, body=json.dumps(root.get("", None)).encode("utf-8", "replace"))


def _places(node: Any) -> list[tuple[Any, Any]]:
    """Every place below the node, as its parent and its key; the node's own first."""
    found: list[tuple[Any, Any]] = []
    stack = [node]
    while stack:
        at = stack.pop()
        items = at.items() if isinstance(at, dict) else enumerate(at) if isinstance(at, list) else ()
        for key, value in items:
            found.append((at, key))
            stack.append(value)
    return found
