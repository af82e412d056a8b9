"""The receiver on a socket: what is taken, and how everything else is refused."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

import pytest

from dbtrun.connection.secret import Connection, Token
from dbtrun.kube.errors import Unreachable
from tests.unit.dbtcloud.account import noon
from tests.unit.webhooks.posting import NAME, PATH, Secrets, body, connection_secret, receiving, signature
from watcher.sources import SecretName
from watcher.telemetry.serving import Limits
from watcher.webhooks.bounds import PEER
from watcher.webhooks.hint import MAX_BODY
from watcher.webhooks.signers import FIRST_READS

CONNECTION = Connection(host="cloud.getdbt.com", account_id=1, token=Token("t0k3n"))


async def test_a_signed_webhook_is_a_hint_for_the_connection_of_its_path() -> None:
    async with receiving() as at:
        answer = await at.post(body(7))
        assert (answer.status_code, answer.text) == (200, "ok")
        assert [(connection, hint.run_id) for connection, hint in at.hints] == [(CONNECTION, 7)]
        assert at.outcomes == {"accepted": 1}


async def test_one_that_is_sent_again_is_answered_in_the_same_way_and_does_nothing() -> None:
    """dbt Cloud repeats what it got no answer to in time; whoever has seen a webhook can repeat it for ever."""
    async with receiving() as at:
        answers = [await at.post(body(7)) for _ in range(5)]
        assert {answer.status_code for answer in answers} == {200}
        assert len(at.hints) == 1
        assert at.outcomes == {"accepted": 1, "duplicate": 4}


async def test_one_for_a_run_that_nobody_waits_for_is_a_success_too() -> None:
    """Else dbt Cloud would deactivate the webhook after a quiet week."""
    async with receiving(awaited=False) as at:
        assert (await at.post(body(7))).status_code == 200
        assert at.outcomes == {"unused": 1}


@pytest.mark.parametrize("sign", ["", "0" * 64, "Bearer token", signature(body(8)), signature(body(7), "another")])
async def test_a_forged_one_is_refused(sign: str) -> None:
    async with receiving() as at:
        answer = await at.post(body(7), sign)
        assert answer.status_code == 401
        assert at.hints == []
        assert at.outcomes == {"unsigned": 1}


async def test_only_the_header_that_dbt_cloud_uses_carries_a_signature() -> None:
    async with receiving() as at:
        right = signature(body(7))
        assert (await at.post(body(7), "x", **{"X-DBT-Signature": right, "X-Signature": right})).status_code == 401


async def test_a_truncated_one_is_refused() -> None:
    async with receiving() as at:
        assert (await at.post(body(7)[:-1], signature(body(7)))).status_code == 401
        assert at.hints == []


async def test_who_cannot_sign_does_not_learn_which_secrets_there_are() -> None:
    async with receiving() as at:
        at.secrets.stored[SecretName("data", "open")] = connection_secret(**{"webhook-secret": ""})
        other = connection_secret()
        at.secrets.stored[SecretName("data", "opaque")] = type(other)("Opaque", other.data, "1")
        paths = [PATH, "/hooks/data/missing", "/hooks/data/open", "/hooks/data/opaque", "/hooks/data/A_B", "/hooks/-/b"]
        answers = [await at.post(body(7), signature(body(7), "guess"), path) for path in paths]
        assert {(answer.status_code, answer.text) for answer in answers} == {(401, answers[0].text)}
        empty = await at.post(body(7), signature(body(7), ""), "/hooks/data/open")
        assert empty.status_code == 401, "an empty secret would sign for everybody"
        assert (await at.post(body(7), path="/hooks/data/opaque")).status_code == 401, "any Secret may have such a key"
        assert at.hints == []


async def test_a_signed_body_that_is_no_webhook_is_refused() -> None:
    async with receiving() as at:
        assert (await at.post(b"[1]")).status_code == 400
        assert at.outcomes == {"malformed": 1}


async def test_what_is_no_webhook_at_all_is_refused_by_its_meaning() -> None:
    async with receiving() as at:
        for path in ("/", "/hooks", "/hooks/data", "/hooks/data/dbt-cloud/more", "/metrics", "/hooks/../../etc/passwd"):
            assert (await at.post(body(7), path=path)).status_code == 404, path
        got = await at.raw(f"GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert got.startswith(b"HTTP/1.1 405 ")
        assert b"allow: POST" in got
        assert at.hints == []
        assert set(at.outcomes) == {"other_request"}


async def test_the_longest_body_is_taken_and_one_byte_more_is_not() -> None:
    async with receiving() as at:
        longest = body(7) + b" " * (MAX_BODY - len(body(7)))
        assert (await at.post(longest)).status_code == 200
        assert (await at.post(longest + b" ")).status_code == 413
        assert at.outcomes == {"accepted": 1, "too_large": 1}
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: x\r\nContent-Length: {MAX_BODY + 1}\r\n\r\n"
        assert (await at.raw(head.encode())).startswith(b"HTTP/1.1 413 "), "it is refused before it is sent"


async def test_a_body_that_says_nothing_of_its_length_is_cut_while_it_is_read() -> None:
    async with receiving() as at:
        piece = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        assert (await at.raw(head + 5 * piece)).startswith(b"HTTP/1.1 413 ")


async def test_a_body_that_lies_about_its_length_is_not_waited_for() -> None:
    async with receiving(Limits(connections=8, seconds=0.3)) as at:
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: x\r\nContent-Length: 60000\r\n\r\n".encode()
        with suppress(ConnectionError):
            assert await at.raw(head + b"{") == b""
        await at.counted("incomplete")
        assert at.outcomes == {"incomplete": 1}


async def test_slow_senders_neither_hold_connections_nor_others_up() -> None:
    async with receiving(Limits(connections=8, seconds=30.0)) as at:
        slow = [await asyncio.open_connection("127.0.0.1", at.port) for _ in range(100)]
        for number, (_, writer) in enumerate(slow):
            head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\n" + "Content-Length: 9\r\n\r\n" * (number % 2)
            writer.write(head.encode())
        assert (await at.post(body(7))).status_code == 200
        for _, writer in slow:
            writer.close()


async def test_a_connection_is_used_once() -> None:
    """A proxy that keeps connections would meet one that was just cut off."""
    async with receiving() as at:
        assert (await at.post(body(7))).headers["connection"] == "close"
        assert (await at.post(body(7), "forged")).headers["connection"] == "close"


async def test_a_flood_of_forged_ones_is_cut_and_believed_in_nothing() -> None:
    async with receiving(clock=noon) as at:  # no time passes in which more would be allowed
        forged = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: f\r\nContent-Length: 2\r\n\r\n{{}}".encode()
        for _ in range(10):
            await asyncio.gather(*(at.raw(forged) for _ in range(100)))
        assert set(at.outcomes) == {"unsigned", "too_many"}
        assert at.outcomes["unsigned"] == PEER[1]
        assert at.hints == []


async def test_paths_that_somebody_makes_up_cost_the_api_server_a_few_reads() -> None:
    async with receiving(clock=noon) as at:
        assert (await at.post(body(7))).status_code == 200
        for number in range(100):
            await at.post(body(7), "guess", f"/hooks/data/made-up-{number}")
        assert at.secrets.reads.total() == FIRST_READS[1]
        assert (await at.post(body(8))).status_code == 200, "a connection that is known is not held up"


async def test_a_missing_secret_is_not_looked_for_again_at_once() -> None:
    async with receiving(secrets=Secrets({})) as at:
        for _ in range(10):
            assert (await at.post(body(7))).status_code == 401
        assert at.secrets.reads == {NAME: 1}


async def test_an_api_server_that_is_away_is_no_refusal() -> None:
    async with receiving() as at:
        at.secrets.broken = Unreachable("away")
        assert (await at.post(body(7))).status_code == 503
        at.secrets.broken = None
        assert (await at.post(body(7))).status_code == 200
        assert at.outcomes == {"unavailable": 1, "accepted": 1}


async def test_the_log_says_each_kind_of_refusal_once_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "watcher.webhooks")
    async with receiving() as at:
        for _ in range(20):
            await at.post(body(7), "forged")
            await at.post(body(7), path="/hooks/data/missing")
    told = [record.message for record in caplog.records]
    assert len(told) == 2
    assert "it is not signed with a secret of its connection" in told[0]
    assert "no Secret of its name" in told[1]


async def test_a_standby_hands_it_to_the_watcher_that_acts() -> None:
    async with receiving() as leader, receiving(leads=False, leader=f"127.0.0.1:{leader.port}") as standby:
        answers = [await standby.post(body(7)) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 200]
        assert [hint.run_id for _, hint in leader.hints] == [7]
        assert standby.hints == []
        assert (standby.outcomes, leader.outcomes) == ({"relayed": 2}, {"accepted": 1, "duplicate": 1})
        forged = await standby.post(body(8), "forged")
        assert forged.status_code == 401
        assert leader.outcomes.total() == 2, "what is not signed is not handed on"


@pytest.mark.parametrize("leader", ["", "127.0.0.1:1", "dbt.example.com:80", "127.0.0.1:80/x?y", "127.0.0.1"])
async def test_a_standby_that_cannot_reach_it_asks_dbt_cloud_to_send_it_again(leader: str) -> None:
    async with receiving(leads=False, leader=leader) as standby:
        assert (await standby.post(body(7))).status_code == 503
        assert standby.outcomes == {"unavailable": 1}


async def test_a_standby_hands_it_only_to_an_address_as_a_watcher_writes_it() -> None:
    async with receiving() as other:
        for leader in (f"localhost:{other.port}", f"127.0.0.1:{other.port}/hooks/data/dbt-cloud?x="):
            async with receiving(leads=False, leader=leader) as standby:
                assert (await standby.post(body(7))).status_code == 503
        assert other.outcomes == {}


async def test_two_standbys_do_not_send_it_to_and_fro() -> None:
    async with receiving(leads=False) as one, receiving(leads=False, leader=f"127.0.0.1:{one.port}") as two:
        one.leader = f"127.0.0.1:{two.port}"
        assert (await two.post(body(7))).status_code == 503
        assert (one.outcomes.total(), two.outcomes.total()) == (1, 1)


async def test_both_secrets_sign_while_one_replaces_the_other() -> None:
    async with receiving() as at:
        at.secrets.stored[NAME] = connection_secret(**{"webhook-secret-previous": "the-old-one"})
        assert (await at.post(body(7))).status_code == 200
        assert (await at.post(body(8), signature(body(8), "the-old-one"))).status_code == 200
        at.secrets.stored[NAME] = connection_secret()
        assert (await at.post(body(9), signature(body(9), "the-old-one"))).status_code == 401
