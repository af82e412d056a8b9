"""Requests to a server of the tests that has no TLS."""

from __future__ import annotations

import ssl
from typing import Final

import httpx

from tests.patience import patience

TRUSTS_NOBODY: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""For `http://` addresses: to load certificates that nobody needs takes 35 ms of a processor."""


def plain_http(seconds: float = 30.0) -> httpx.AsyncClient:
    """A client for `http://` addresses.

    Args:
        seconds: for each request, on an idle machine.
    """
    return httpx.AsyncClient(trust_env=False, verify=TRUSTS_NOBODY, timeout=patience(seconds))
