"""Keeps a connection's webhook active: dbt Cloud deactivates one that has failed too often, and then sends nothing.

It is done on request only, with a token of its own if there is one, and it judges nothing: a refusal here says nothing
of the connection's token, and nothing depends on webhooks.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from enum import StrEnum
from typing import Final

from dbtrun.connection.secret import Connection
from watcher.clock import Clock
from watcher.dbtcloud import wire
from watcher.dbtcloud.budget import Priority
from watcher.dbtcloud.channel import Channel
from watcher.dbtcloud.errors import DbtCloudError, Forbidden, Unauthorized
from watcher.dbtcloud.replies import Received

CHECK_SECONDS: Final = 600.0
"""Between two looks."""
AGAIN_SECONDS: Final = 3_600.0
"""Between two activations: what is deactivated again at once has a fault that this does not mend."""
MAX_LISTED: Final = 1_000
"""Webhooks of an account that are looked through."""
ID: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")

log = logging.getLogger(__name__)


class State(StrEnum):
    """What a look has found."""

    ACTIVE = "active"
    ACTIVATED = "activated"
    INACTIVE = "inactive"
    MISSING = "missing"
    REFUSED = "refused"
    FAILED = "failed"


SENTENCES: Final = {
    State.ACTIVE: "dbt Cloud sends webhooks to the address in webhook-url.",
    State.ACTIVATED: "dbt Cloud had deactivated the webhook for the address in webhook-url. It is active again.",
    State.INACTIVE: "dbt Cloud has deactivated the webhook for the address in webhook-url again: see why in dbt Cloud.",
    State.MISSING: "dbt Cloud has no webhook for the address in webhook-url: create one there.",
    State.REFUSED: "The token may not read or change webhooks: give the connection's Secret a webhook-token that may.",
    State.FAILED: "Whether dbt Cloud sends webhooks could not be read; the watcher tries again.",
}


class Subscription:
    """The webhook of one connection. `run()` is its task.

    Args:
        channel: of the token that manages webhooks.
        url: the webhook's address.
        told: called with the state that each look has found.
        contain: around each look; lets nothing out but DbtCloudError.
    """

    def __init__(
        self,
        channel: Channel,
        url: str,
        told: Callable[[str], object],
        clock: Clock,
        contain: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._channel = channel
        self._url = url
        self._told = told
        self._clock = clock
        self._contain = contain
        self._state: State | None = None
        self._activated_at = -math.inf

    async def run(self) -> None:
        """Looks until cancelled."""
        try:
            while True:
                await self.look()
                await asyncio.sleep(CHECK_SECONDS)
        finally:
            await self._channel.close()

    async def look(self) -> None:
        """One look; activates the webhook if it is there and inactive."""
        why = None
        try:
            with self._contain("look at the webhook"):
                state = await self._found()
        except (Unauthorized, Forbidden) as error:
            state, why = State.REFUSED, error.message
        except DbtCloudError as error:
            state, why = State.FAILED, error.message
        self._told(state)
        # Once for each change: a webhook that is missing would fill the log with every look.
        if state is not self._state:
            fine = state in (State.ACTIVE, State.ACTIVATED)
            extra = {"connection": str(self._channel.connection), "why": why}
            log.log(logging.INFO if fine else logging.WARNING, SENTENCES[state], extra=extra)
        self._state = state

    async def _found(self) -> State:
        listed: list[wire.Webhook] = []
        async for page in self._channel.pages(
            "webhooks/subscriptions", {}, wire.WEBHOOKS, Priority.DETAILS, version="v3"
        ):
            listed += page.items
            if len(listed) >= MAX_LISTED:
                break
        ours = [each for each in listed if each.client_url == self._url]
        if not ours:
            return State.MISSING
        # Several may have the address: one that sends is enough.
        if any(each.active for each in ours):
            return State.ACTIVE
        now = self._clock().mono
        # Documented since 2026: dbt Cloud deactivates a webhook after 1,000 failed deliveries in a row, or a week of
        # them. The id is checked because it goes into a path.
        if now - self._activated_at < AGAIN_SECONDS or not ID.fullmatch(ours[0].id):
            return State.INACTIVE
        self._activated_at = now
        await self._channel.exchange(
            "PUT",
            f"webhooks/subscription/{ours[0].id}",
            Priority.DETAILS,
            _accepted,
            body=ours[0].activation,
            version="v3",
        )
        return State.ACTIVATED


def managing(connection: Connection) -> Connection:
    """The connection with the token that manages its webhooks, if it has one."""
    return replace(connection, token=connection.webhook_token or connection.token)


def _accepted(received: Received) -> None:
    if not 200 <= received.status < 300:
        raise received.error()
