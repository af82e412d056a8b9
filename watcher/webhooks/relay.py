"""From a standby to the watcher that acts: a Service sends webhooks to any of them.

Where the other one is, is in the Lease that it holds. It checks the signature again, so nothing depends on who relays.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Final

import httpx

from dbtrun.text import natural

RELAYED: Final = "x-dbtrun-relayed"
"""A header of a relayed webhook, which is not relayed again: two standbys could send it back and forth."""
RELAY_SECONDS: Final = 3.0
"""dbt Cloud waits ten seconds for an answer."""
AT_ONCE: Final = 32


def is_address(text: str) -> bool:
    """Whether it is an IP address and a port, as a watcher writes it into its Lease."""
    host, colon, port = text.rpartition(":")
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return bool(colon) and 0 < (natural(port) or 0) < 65_536


class Relay:
    """Hands webhooks to the watcher that acts.

    Args:
        leader: where it takes them; empty if that is not known.
    """

    def __init__(self, leader: Callable[[], str]) -> None:
        self._leader = leader
        # Straight to the pod: a proxy of the environment is for dbt Cloud. Nothing is kept alive, as a receiver closes
        # each connection after its answer.
        self._http = httpx.AsyncClient(
            timeout=RELAY_SECONDS,
            trust_env=False,
            limits=httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=0),
        )

    async def send(self, path: str, body: bytes, signature: str) -> bool:
        """Whether the other watcher has taken it."""
        address = self._leader()
        # The Lease may be written by others than watchers: nothing but an address may become a part of the URL.
        if not is_address(address):
            return False
        headers = {"Authorization": signature, RELAYED: "1", "Content-Type": "application/json"}
        try:
            # Plain HTTP: the body holds ids and names, and who changes it on the way cannot sign it.
            answer = await self._http.post(f"http://{address}{path}", content=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL):
            return False
        return answer.is_success

    async def close(self) -> None:
        """Closes its connections."""
        await self._http.aclose()
