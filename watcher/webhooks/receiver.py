"""Takes webhooks of dbt Cloud on a port of its own: `POST /hooks/NAMESPACE/SECRET`.

Each is answered before anything is done for it, and what may be done is only to ask dbt Cloud sooner. A sender that
cannot sign learns nothing: a Secret that does not exist and a wrong signature get the same answer.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from enum import StrEnum
from typing import Final, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from dbtrun.connection.secret import Connection
from dbtrun.text import natural
from dbtrun.values import Instant
from watcher.clock import Clock
from watcher.sources import SecretName
from watcher.telemetry.serving import Limits
from watcher.webhooks.bounds import Deliveries, Gate
from watcher.webhooks.hint import MAX_BODY, Hint, Malformed, parse, signed
from watcher.webhooks.relay import RELAYED, Relay
from watcher.webhooks.signers import Signer, Unavailable

LIMITS: Final = Limits(connections=256, seconds=10.0)
"""dbt Cloud waits ten seconds for an answer. 256 bodies are 16 MB."""
LOG_SECONDS: Final = 60.0
"""Between two lines of the log for refusals of one kind."""
NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
"""Of a namespace or a Secret."""

log = logging.getLogger(__name__)


class Outcome(StrEnum):
    """What became of a request."""

    ACCEPTED = "accepted"
    UNUSED = "unused"
    DUPLICATE = "duplicate"
    RELAYED = "relayed"
    UNSIGNED = "unsigned"
    UNKNOWN = "unknown_connection"
    TOO_LARGE = "too_large"
    MALFORMED = "malformed"
    INCOMPLETE = "incomplete"
    TOO_MANY = "too_many"
    UNAVAILABLE = "unavailable"
    OTHER = "other_request"


ANSWERS: Final = {
    # Whatever is not used gets 200 too: dbt Cloud sends again what is refused, and deactivates a webhook after too many
    # refusals in a row (documented).
    Outcome.ACCEPTED: (200, "ok"),
    Outcome.UNUSED: (200, "ok"),
    Outcome.DUPLICATE: (200, "ok"),
    Outcome.RELAYED: (200, "ok"),
    Outcome.UNSIGNED: (401, "The signature is missing or wrong."),
    # In the same words: the answers must not reveal which Secrets exist.
    Outcome.UNKNOWN: (401, "The signature is missing or wrong."),
    Outcome.TOO_LARGE: (413, f"A webhook has at most {MAX_BODY} bytes."),
    Outcome.MALFORMED: (400, "This is not a webhook of dbt Cloud."),
    Outcome.INCOMPLETE: (400, "The body ended early."),
    Outcome.TOO_MANY: (429, "Too many requests."),
    Outcome.UNAVAILABLE: (503, "Send it again later."),
}
REFUSALS: Final = {
    Outcome.UNSIGNED: "A webhook is refused: it is not signed with a secret of its connection.",
    Outcome.UNKNOWN: "A webhook is refused: no Secret of its name is a connection with the key webhook-secret.",
    Outcome.TOO_LARGE: "A webhook is refused: its body is too long.",
    Outcome.MALFORMED: "A webhook is refused: it is signed but cannot be read.",
    Outcome.INCOMPLETE: "A webhook is refused: its body ended early.",
    Outcome.TOO_MANY: "Webhooks are refused: there are too many.",
    Outcome.UNAVAILABLE: "A webhook is refused for now: its Secret cannot be read, or there is no active watcher.",
}
"""What the log says."""


class Signing(Protocol):
    """Finds who signs for a connection."""

    async def of(self, name: SecretName) -> Signer | None: ...


class Receiver:
    """The receiver as an ASGI application.

    Args:
        act: called with a connection and a hint for it; returns whether somebody waits for that.
        leads: whether this watcher acts; one that does not relays.
        count: called with each outcome and the seconds that the answer took.
    """

    def __init__(
        self,
        signers: Signing,
        act: Callable[[Connection, Hint], bool],
        leads: Callable[[], bool],
        relay: Relay,
        count: Callable[[str, float], object],
        clock: Clock,
    ) -> None:
        self._signers = signers
        self._act = act
        self._leads = leads
        self._relay = relay
        self._count = count
        self._clock = clock
        self._gate = Gate(clock().mono)
        self._deliveries = Deliveries()
        self._told: dict[Outcome, tuple[float, int]] = {}
        self._routes = Starlette(
            routes=[Route("/hooks/{namespace}/{name}", self._receive, methods=["POST"])],
            exception_handlers={HTTPException: self._other},
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a request, if there are not too many."""
        peer = (scope.get("client") or ("",))[0]
        if self._gate.passes(peer, self._clock().mono):
            await self._routes(scope, receive, send)
        else:
            await self._answer(Outcome.TOO_MANY, self._clock(), peer)(scope, receive, send)

    async def close(self) -> None:
        """Closes the connections to other watchers."""
        await self._relay.close()

    async def _other(self, _request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - Starlette calls it for no other
        self._count(Outcome.OTHER, 0.0)
        return PlainTextResponse(error.detail, error.status_code, {**(error.headers or {}), "Connection": "close"})

    async def _receive(self, request: Request) -> Response:
        began = self._clock()
        try:
            outcome = await self._take(request)
        except ClientDisconnect:
            outcome = Outcome.INCOMPLETE
        except Unavailable:
            outcome = Outcome.UNAVAILABLE
        return self._answer(outcome, began, request.client.host if request.client else "")

    async def _take(self, request: Request) -> Outcome:
        # Before the body is read: what has no signature must not cost memory.
        signature = request.headers.get("authorization", "")
        if not signature:
            return Outcome.UNSIGNED
        name = SecretName(request.path_params["namespace"], request.path_params["name"])
        body = await _body(request)
        if body is None:
            return Outcome.TOO_LARGE
        # Checked before it is used in a request to the API server.
        signer = await self._signers.of(name) if all(map(NAME.fullmatch, name)) else None
        if signer is None:
            return Outcome.UNKNOWN
        # Before anything of the body is decoded: until then it may be of anybody.
        if not signed(body, signature, signer.secrets):
            return Outcome.UNSIGNED
        try:
            hint = parse(body)
        except Malformed:
            return Outcome.MALFORMED
        if not self._leads():
            # Relayed once at most: two watchers that take each other for the leader would send it back and forth.
            again = RELAYED in request.headers
            relayed = not again and await self._relay.send(request.url.path, body, signature)
            return Outcome.RELAYED if relayed else Outcome.UNAVAILABLE
        where, now = "/".join(name), self._clock().mono
        if self._deliveries.knows(where, hint.key, now):
            return Outcome.DUPLICATE
        self._deliveries.take(where, hint.key, now)
        return Outcome.ACCEPTED if self._act(signer.connection, hint) else Outcome.UNUSED

    def _answer(self, outcome: Outcome, began: Instant, peer: str) -> Response:
        now = self._clock().mono
        self._count(outcome, now - began.mono)
        refusal, (until, more) = REFUSALS.get(outcome), self._told.get(outcome, (0.0, 0))
        if refusal is not None and now < until:
            self._told[outcome] = until, more + 1
        elif refusal is not None:
            self._told[outcome] = now + LOG_SECONDS, 0
            log.warning(refusal, extra={"peer": peer, "notTold": more})
        code, words = ANSWERS[outcome]
        # One request for each connection: none of those that a proxy keeps is cut off between two.
        return PlainTextResponse(words, code, {"Connection": "close"})


async def _body(request: Request) -> bytes | None:
    """The body; None: it is too long, of which no more is read."""
    announced = natural(request.headers.get("content-length", "0"))
    if announced is None or announced > MAX_BODY:
        return None
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY:
            return None
    return bytes(body)
