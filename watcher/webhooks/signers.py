"""Which secrets sign the webhooks of a connection.

The path of a webhook names the Secret, and anybody may send any path. So the names that are looked up for the first
time share a small allowance, and one that is missing is not looked up again for a while.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final, NamedTuple

from dbtrun.api import CONNECTION_SECRET_TYPE
from dbtrun.connection.hosts import Hosts
from dbtrun.connection.secret import Connection, InvalidConnection, Token, parse_connection, webhook_secrets
from dbtrun.kube.errors import KubeError
from dbtrun.values import keep_newest
from watcher.bucket import Bucket
from watcher.clock import Clock
from watcher.sources import SecretName, Secrets

READ_SECONDS: Final = 3.0
"""For reading a Secret: dbt Cloud waits ten seconds for an answer."""
FIRST_READS: Final = (60.0, 20.0)
"""A minute, and at once: of names that were not found to be of such a Secret yet."""
MISSING_SECONDS: Final = 10.0
"""Until a Secret that was missing is looked up again."""
MAX_NAMES: Final = 1_000
"""Names that are remembered, for each reason."""


class Unavailable(Exception):
    """It is not known now whether a webhook is signed."""


class Signer(NamedTuple):
    """Who signs for a connection."""

    secrets: tuple[Token, ...]
    connection: Connection
    """What the same Secret says of dbt Cloud."""


class Signers:
    """Reads Secrets for webhooks.

    Args:
        secrets: remembers what it has read for a while.
        hosts: those that a connection may name.
    """

    def __init__(self, secrets: Secrets, hosts: Hosts, clock: Clock) -> None:
        self._secrets = secrets
        self._hosts = hosts
        self._clock = clock
        self._first_reads = Bucket(FIRST_READS[0], clock().mono, FIRST_READS[1])
        self._known: dict[SecretName, None] = {}
        self._missing: dict[SecretName, float] = {}

    async def of(self, name: SecretName) -> Signer | None:
        """Who signs for the connection in this Secret; None: nobody does.

        Raises:
            Unavailable: it is not known now.
        """
        now = self._clock().mono
        # Without asking the API server: anybody can send any name, as often as the receiver takes it.
        if now < self._missing.get(name, now):
            return None
        if name not in self._known and not self._first_reads.take(now):
            raise Unavailable
        where = f"Secret {name.namespace}/{name.name}"
        secret = signer = None
        try:
            async with asyncio.timeout(READ_SECONDS):
                secret = await self._secrets.read(*name)
        except (KubeError, TimeoutError):
            raise Unavailable from None
        except LookupError:
            pass  # there is no such Secret
        if secret is not None and secret.type == CONNECTION_SECRET_TYPE:
            with suppress(InvalidConnection):
                signer = Signer(webhook_secrets(secret.data, where), parse_connection(secret.data, where, self._hosts))
        if signer is None or not signer.secrets:
            self._known.pop(name, None)
            keep_newest(self._missing, name, now + MISSING_SECONDS, MAX_NAMES)
            self._secrets.forget(*name)
            return None
        keep_newest(self._known, name, None, MAX_NAMES)
        return signer
