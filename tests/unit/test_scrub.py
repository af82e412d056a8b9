"""No secret that a log may hold gets through, and what explains a failure does."""

from __future__ import annotations

import time
from functools import cache
from typing import Final

import pytest

from dbtrun.scrub import MASK, RULES, WINDOW, log_tail, scrub, told
from tests.unit.lifecycle.planter import Planter, shown_parts

LIMIT: Final = 4_000


def test_no_planted_secret_gets_through() -> None:
    """`tests/hostile/test_planted.py` does the same with thousands of logs."""
    for secrets, log in planted():
        tail = log_tail(log, LIMIT)
        assert len(tail) <= LIMIT
        assert not [secret for secret in secrets if shown_parts(secret, tail)], (secrets, tail)


def test_the_tokens_of_this_test_are_in_the_logs() -> None:
    """That nothing gets through must not mean that nothing was planted."""
    for secrets, log in planted():
        uncoloured = log.replace("\x1b[31m", "").replace("\x1b[0m", "")
        assert all(secret in uncoloured for secret in secrets)


EDGES: Final = [
    (["MIIEvQIBADANBgkq"], "MIIEvQIBADANBgkq\nabc\n-----END PRIVATE KEY-----\nError"),
    (["abcdefgh"], "> Cookie: id=abcdefgh; Path=/"),
    (["qwertyuiop"], "Bearer qwertyuiop-asdf"),
    (["p4ssw0rdp4ss"], "identified by p4ssw0rdp4ss"),
    (["third fourth"], 'api_key="first second third fourth"'),
    (["sk-ant-abcdefghijklmnopqrst"], "key sk-ant-abcdefghijklmnopqrst"),
    (["dXNlcjpwYXNzd29yZA"], "tried Basic dXNlcjpwYXNzd29yZA=="),
]


@cache
def planted() -> list[tuple[list[str], str]]:
    return [*EDGES, *(Planter(seed).log() for seed in range(400))]


@pytest.mark.parametrize("number", range(len(RULES)))
def test_every_rule_is_needed(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dbtrun.scrub.RULES", (*RULES[:number], *RULES[number + 1 :]))
    assert any(shown_parts(secret, log_tail(log, LIMIT)) for secrets, log in planted() for secret in secrets)


@pytest.mark.parametrize(
    "words",
    [
        "fatal: repository 'https://github.com/acme/shop.git/' not found",
        "Cloning into '/tmp/jobs/70403110257794/target'...",
        "HEAD is now at 3f9c0a1b2c3d4e5f60718293a4b5c6d7e8f90123 Add orders",
        'Database Error in model orders (models/marts/orders.sql)\n  relation "raw.orders" does not exist\n  LINE 7',
        "Compilation Error\n  Model 'model.shop.orders' depends on a node named 'ordrs' which was not found",
        "syntax error line 3 at position 14 unexpected token 'FROM'",
        'password authentication failed for user "loader"',
        "Could not connect to postgres://db.example.com:5432/shop",
        "expected token 'end of print statement', got 'orders'",
        "Failure in test not_null_orders_id (models/schema.yml)\n  Got 3 results, configured to fail if != 0",
        "Invoke dbt with `dbt build --select path:models/marts+ --exclude tag:nightly`",
        "dbt was unable to connect to the specified database.\n  Incorrect username or password was specified.",
    ],
)
def test_what_explains_a_failure_stays(words: str) -> None:
    assert scrub(words) == words


def test_the_connections_own_token_goes_wherever_it_is() -> None:
    assert told("see 0123abcd4567 here", 100, "0123abcd4567") == f"see {MASK} here"


def test_a_tail_begins_with_a_line() -> None:
    tail = log_tail("\n".join(f"line {number}" for number in range(5_000)), 100)
    assert len(tail) <= 100
    assert tail.startswith("…\nline ")
    assert tail.endswith("\nline 4999")


def test_a_line_that_is_longer_than_the_tail_is_cut() -> None:
    assert log_tail("first\n" + "x y " * 2_000 + "end", 50).endswith("x y end")


def test_a_log_without_a_beginning_shows_no_half_of_a_secret() -> None:
    assert log_tail("password=" + "\x1b[0m" * 4 * WINDOW + "hunter2hunter2", LIMIT) == ""
    assert log_tail("password=" + "\x1b[0m" * 4 * WINDOW + "hunter2hunter2\nError", LIMIT) == "Error"


def test_a_short_log_is_whole() -> None:
    assert log_tail("a\r\nb\x1b[31mc\x07", LIMIT) == "a\nbc"


@pytest.mark.parametrize(
    "piece",
    [
        "password", "password=", "password='", 'token="', "://", "://a:b", "eyJ", "eyJ-", "-----BEGIN PRIVATE KEY-----",
        "-----END PRIVATE KEY-----", "aA1", "token ", "bearer ", "dbtc_", "--password ", "authorization:", "\\", "'\\",
        "password=\\'", " ", "\n", "a", "A", "identified by ", "://:", "@", "-", "AKIA", "|", "password:|\n",
    ],
)  # fmt: skip
def test_no_text_makes_it_slow(piece: str) -> None:
    text = (piece * (WINDOW // len(piece) + 1))[:WINDOW]
    began = time.thread_time()
    log_tail(text, LIMIT)
    assert time.thread_time() - began < 2.0
