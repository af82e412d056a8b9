"""Whom the client trusts, against a real TLS server on this machine."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from dbtrun.api import Overrides, Reason
from dbtrun.connection.secret import Connection
from tests.unit.dbtcloud import account
from watcher.dbtcloud import channel
from watcher.dbtcloud.client import Client
from watcher.dbtcloud.errors import Unreachable
from watcher.lifecycle.facts import NotSent


@pytest.fixture
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def connection(ca: trustme.CA) -> AsyncIterator[Connection]:
    """A connection to a server that has the CA's certificate, and that answers everything with one run."""
    body = account.envelope(account.run(1)).content

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost").configure_cert(context)
    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        yield replace(account.CONNECTION, host=f"localhost:{port}", ca=ca.cert_pem.bytes().decode())


async def test_the_connections_ca_is_trusted(connection: Connection) -> None:
    async with Client(connection) as cloud:
        assert (await cloud.run(1)).run is not None


@pytest.mark.parametrize("other", [None, trustme.CA().cert_pem.bytes().decode()])
async def test_no_other_ca_is_trusted_and_nothing_is_sent(connection: Connection, other: str | None) -> None:
    async with Client(replace(connection, ca=other)) as cloud:
        with pytest.raises(Unreachable, match="certificate verify failed"):
            await cloud.run(1)
        assert isinstance(await cloud.start(99, "why", Overrides()), NotSent)


async def test_a_bundle_of_the_environment_takes_the_place_of_the_public_cas(
    connection: Connection, ca: trustme.CA, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = tmp_path / "ca.crt"
    ca.cert_pem.write_to_path(bundle)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    channel._trust.cache_clear()
    try:
        async with Client(replace(connection, ca=None)) as cloud:
            assert (await cloud.run(1)).run is not None
    finally:
        channel._trust.cache_clear()


async def test_a_closed_port_is_unreachable_and_nothing_is_sent() -> None:
    async with Client(replace(account.CONNECTION, host="127.0.0.1:1", tls=False)) as cloud:
        submission = await cloud.start(99, "why", Overrides())
    assert isinstance(submission, NotSent)
    assert submission.trouble.reason is Reason.UNREACHABLE


async def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    async with Client(connection) as cloud:
        assert (await cloud.run(1)).run is not None


async def test_a_proxy_of_the_environment_is_asked_for_the_world(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    async with Client(replace(account.CONNECTION, host="dbt.invalid")) as cloud:
        with pytest.raises(Unreachable, match="connection attempts failed"):
            await cloud.run(1)
