"""Signatures over raw bytes, and what is read of a body that is signed."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbtrun.connection.secret import InvalidConnection, Token, webhook_secrets
from watcher.webhooks.hint import MAX_BODY, Hint, Kind, Malformed, parse, signed

NEW, OLD = Token("the-new-secret"), Token("the-old-secret")


def signature(body: bytes, secret: Token = NEW) -> str:
    return hmac.new(secret.reveal().encode(), body, hashlib.sha256).hexdigest()


def documented(**change: Any) -> bytes:
    """The example of dbt Cloud's documentation."""
    body: dict[str, Any] = {
        "accountId": 1,
        "webhookId": "wsu_12345abcde",
        "eventId": "wev_2L6m5BggBw9uPNuSmtg4MUiW4Re",
        "timestamp": "2023-01-31T19:29:35.789265936Z",
        "eventType": "job.run.completed",
        "webhookName": "test",
        "data": {
            "jobId": "123",
            "jobName": "Daily Job (dbt build)",
            "runId": "12345",
            "environmentId": "1234",
            "runReason": "Kicked off from UI by test@example.com",
            "runStatus": "Success",
            "runStatusCode": 10,
            "runStatusMessage": "None",
            "runFinishedAt": "2023-01-31T19:29:32Z",
        },
    }
    return json.dumps(body | change).encode()


def test_both_secrets_sign_while_one_is_replaced_by_the_other() -> None:
    body = documented()
    assert signed(body, signature(body, NEW), (NEW, OLD))
    assert signed(body, signature(body, OLD), (NEW, OLD))
    assert not signed(body, signature(body, OLD), (NEW,))


@given(st.binary(max_size=200), st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_a_signature_is_of_exactly_these_bytes(body: bytes, place: int, change: int) -> None:
    right = signature(body)
    assert signed(body, right, (NEW,))
    other = bytearray(body or b"x")
    other[place % len(other)] ^= change
    assert not signed(bytes(other), right, (NEW,))


@pytest.mark.parametrize(
    "given_signature",
    [
        "",
        "Bearer anything",
        "0" * 64,
        "\udcff",
        "é" * 64,
        signature(documented()).upper(),
        signature(documented())[:-1],
    ],
)
def test_what_is_no_signature_is_refused(given_signature: str) -> None:
    assert not signed(documented(), given_signature, (NEW, OLD))


def test_without_a_secret_nothing_is_signed() -> None:
    body = documented()
    assert not signed(body, signature(body, Token("")), ())
    empty = {"webhook-secret": b" \n", "webhook-secret-previous": b""}
    assert webhook_secrets(empty, "Secret a/b") == ()


def test_the_keys_of_the_secret_are_both_read() -> None:
    data = {"webhook-secret": b"the-new-secret\n", "webhook-secret-previous": b"the-old-secret"}
    assert webhook_secrets(data, "Secret a/b") == (NEW, OLD)
    with pytest.raises(InvalidConnection, match="key `webhook-secret` is not UTF-8 text"):
        webhook_secrets({"webhook-secret": b"\xff"}, "Secret a/b")


def test_the_documented_example_is_read() -> None:
    hint = parse(documented())
    assert hint == Hint(key=hint.key, kind=Kind.COMPLETED, account_id=1, job_id=123, run_id=12345)
    assert hint.kind.ended


@pytest.mark.parametrize(
    ("event", "kind", "ended"),
    [
        ("job.run.started", Kind.STARTED, False),
        ("job.run.errored", Kind.ERRORED, True),
        ("job.run.exploded", Kind.OTHER, False),
        (7, Kind.OTHER, False),
        (None, Kind.OTHER, False),
    ],
)
def test_kinds(event: object, kind: Kind, ended: bool) -> None:
    hint = parse(documented(eventType=event))
    assert (hint.kind, hint.kind.ended) == (kind, ended)


@pytest.mark.parametrize(
    ("run_id", "number"),
    [
        ("70403110257794", 70403110257794),
        (12, 12),
        ("", None),
        ("0", None),
        (-1, None),
        (True, None),
        (1.5, None),
        ("1e3", None),
        ("٣", None),
        ("9" * 19, None),
        ("9" * 30_000, None),
        (2**63, None),
        (None, None),
        ([], None),
    ],
)
def test_an_id_is_a_number_that_can_be_one(run_id: object, number: int | None) -> None:
    assert parse(documented(data={"runId": run_id})).run_id == number


def test_what_is_missing_is_none() -> None:
    hint = parse(b"{}")
    assert (hint.kind, hint.account_id, hint.job_id, hint.run_id) == (Kind.OTHER, None, None, None)


def test_each_delivery_of_an_event_has_the_same_key_and_no_other_event_has_it() -> None:
    assert parse(documented()).key == parse(documented(timestamp="later")).key
    keys = {parse(documented(eventId=one)).key for one in ("a", "b", "c" * 60_000)}
    nameless = {parse(documented(eventId=None, accountId=n)).key for n in (1, 2)}
    assert len(keys | nameless) == 5
    assert {len(key) for key in keys | nameless} == {32}


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b'{"data": 1}', b'{"data":', documented()[:-20], b"\xff\xfe", b"[" * 60_000, b"{" * 60_000],
)
def test_what_is_no_webhook_is_refused_in_words_that_quote_nothing(body: bytes) -> None:
    with pytest.raises(Malformed, match=r"^it is not the JSON object of a webhook$"):
        parse(body)


def test_a_body_that_is_one_byte_too_long_is_refused() -> None:
    filler = MAX_BODY - len(documented())
    assert parse(documented() + b" " * filler).run_id == 12345
    with pytest.raises(Malformed, match="more than 65536 bytes"):
        parse(documented() + b" " * (filler + 1))


@given(
    st.binary(max_size=300)
    | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(
        lambda value: json.dumps({"data": {"runId": value}, "eventId": value}).encode()
    )
)
def test_nothing_signed_surprises_the_reader(body: bytes) -> None:
    try:
        hint = parse(body)
    except Malformed:
        return
    assert hint.run_id is None or 0 < hint.run_id < 2**63
    assert len(hint.key) == 32
