from __future__ import annotations

import copy
import json
import pickle
import traceback

import msgspec
import pytest
import trustme

from dbtrun.connection.hosts import Hosts
from dbtrun.connection.secret import Connection, InvalidConnection, Token, parse_connection

SECRET = "dbtc_s3cr3t"
WHERE = "Secret team/dbt-cloud"
EVERYWHERE = Hosts(("*",), loopback=True)
GOOD = {"token": SECRET.encode(), "account-id": b"4242"}


def parse(**keys: bytes) -> Connection:
    return parse_connection(GOOD | {key.replace("_", "-"): value for key, value in keys.items()}, WHERE, EVERYWHERE)


def test_token_and_account_are_enough() -> None:
    connection = parse()
    assert (connection.base_url, connection.account_id, connection.ca) == ("https://cloud.getdbt.com", 4242, None)
    assert connection.token.reveal() == SECRET


def test_a_webhook_may_have_an_address_and_a_token_of_its_own() -> None:
    url = "https://hooks.example.com/hooks/data/dbt-cloud"
    connection = parse(webhook_url=url.encode(), webhook_token=b"manager\n")
    assert (connection.webhook_url, connection.webhook_token) == (url, Token("manager"))
    plain = parse(webhook_url=b" ", webhook_token=b"")
    assert (plain.webhook_url, plain.webhook_token) == (None, None)
    assert "manager" not in repr(connection)


def test_whitespace_that_editors_add_is_no_part_of_a_value() -> None:
    assert parse(token=b"  dbtc_s3cr3t\r\n", account_id=b" 4242\n", host=b"emea.dbt.com\n") == parse(
        host=b"emea.dbt.com"
    )


@pytest.mark.parametrize(
    ("host", "base_url"),
    [
        (b"emea.dbt.com", "https://emea.dbt.com"),
        (b"AB123.US1.dbt.com", "https://ab123.us1.dbt.com"),
        (b"https://dbt.corp.example:8443", "https://dbt.corp.example:8443"),
        (b"https://emea.dbt.com/", "https://emea.dbt.com"),
        (b"emea.dbt.com:443", "https://emea.dbt.com"),
        (b"emea.dbt.com:0443", "https://emea.dbt.com"),
        (b"http://localhost:80", "http://localhost"),
        (b"http://localhost:443", "http://localhost:443"),
        (b"dbt.corp.example:8443", "https://dbt.corp.example:8443"),
        (b"http://127.0.0.1:8580", "http://127.0.0.1:8580"),
        (b"http://localhost:8580", "http://localhost:8580"),
        (b"http://[::1]:8580", "http://[::1]:8580"),
        (b"https://[2001:DB8::1]", "https://[2001:db8::1]"),
    ],
)
def test_a_host_may_have_a_port_and_a_scheme(host: bytes, base_url: str) -> None:
    assert parse(host=host).base_url == base_url


@pytest.mark.parametrize(
    ("keys", "key", "words"),
    [
        ({"account-id": b"1"}, "token", "missing"),
        ({"token": b" \n", "account-id": b"1"}, "token", "empty"),
        (GOOD | {"webhook-token": b"dbtc s3cr3t"}, "webhook-token", "spaces"),
        (GOOD | {"webhook-url": b"hooks.example.com"}, "webhook-url", "not the address of a webhook"),
        (GOOD | {"webhook-url": b"https://a b"}, "webhook-url", "not the address of a webhook"),
        ({"token": b"dbtc s3cr3t", "account-id": b"1"}, "token", "spaces"),
        ({"token": b"dbtc_s3\ncr3t", "account-id": b"1"}, "token", "spaces"),
        ({"token": b"dbtc_s3\x00cr3t", "account-id": b"1"}, "token", "spaces"),
        ({"token": "dbtc_s3cr3t\u2013".encode(), "account-id": b"1"}, "token", "characters"),
        ({"token": b"\xff\xfe", "account-id": b"1"}, "token", "UTF-8"),
        ({"token": SECRET.encode()}, "account-id", "missing"),
        ({"token": SECRET.encode(), "account-id": b""}, "account-id", "empty"),
        ({"token": SECRET.encode(), "account-id": SECRET.encode()}, "account-id", "number"),
        ({"token": SECRET.encode(), "account-id": b"0"}, "account-id", "number"),
        ({"token": SECRET.encode(), "account-id": b"-5"}, "account-id", "number"),
        ({"token": SECRET.encode(), "account-id": b"4.2"}, "account-id", "number"),
        ({"token": SECRET.encode(), "account-id": "४२".encode()}, "account-id", "number"),
        ({"token": SECRET.encode(), "account-id": b"9" * 19}, "account-id", "number"),
        ({"token": SECRET.encode(), "account-id": b"9" * 5000}, "account-id", "number"),
        (GOOD | {"host": b""}, "host", "empty"),
        (GOOD | {"host": b"http://emea.dbt.com"}, "host", "unencrypted"),
        (GOOD | {"host": b"http://127.0.0.2"}, "host", "unencrypted"),
        (GOOD | {"host": b"http://localhost.evil.example"}, "host", "unencrypted"),
        (GOOD | {"host": b"ftp://emea.dbt.com"}, "host", "scheme"),
        (GOOD | {"host": b"https://emea.dbt.com/api/v2"}, "host", "path"),
        (GOOD | {"host": b"emea.dbt.com/"[:-1] + b"?x=1"}, "host", "query"),
        (GOOD | {"host": b"emea.dbt.com#"}, "host", "query"),
        (GOOD | {"host": b"https://dbtc_s3cr3t@emea.dbt.com"}, "host", "user"),
        (GOOD | {"host": b"https://localhost@evil.example"}, "host", "user"),
        (GOOD | {"host": b"emea dbt.com"}, "host", "spaces"),
        (GOOD | {"host": b"emea.dbt.com\nevil"}, "host", "characters"),
        (GOOD | {"host": "émea.dbt.com".encode()}, "host", "characters"),
        (GOOD | {"host": b"emea.dbt.com:99999"}, "host", "port"),
        (GOOD | {"host": b"emea.dbt.com:0"}, "host", "not a host name"),
        (GOOD | {"host": b"emea.dbt.com:"}, "host", "not a host name"),
        (GOOD | {"host": b"emea.dbt.com:x"}, "host", "port"),
        (GOOD | {"host": b"https://"}, "host", "not a host name"),
        (GOOD | {"host": b"-emea.dbt.com"}, "host", "not a host name"),
        (GOOD | {"host": b"emea..dbt.com"}, "host", "not a host name"),
        (GOOD | {"host": b"emea.dbt.com%2f.evil"}, "host", "not a host name"),
        (GOOD | {"host": b"emea.dbt.com\\evil"}, "host", "not a host name"),
        (GOOD | {"host": b"[::1"}, "host", "invalid port or address"),
        (GOOD | {"host": b"xn--a.example"}, "host", "not a host name"),
        (GOOD | {"host": b"cloud.getdbt.com."}, "host", "not a host name"),
        (GOOD | {"host": b"\xff"}, "host", "UTF-8"),
        (GOOD | {"ca.crt": b""}, "ca.crt", "no PEM"),
        (GOOD | {"ca.crt": b"not a certificate"}, "ca.crt", "no PEM"),
        (GOOD | {"ca.crt": "é".encode()}, "ca.crt", "no PEM"),
    ],
)
def test_an_unusable_value_is_refused_in_a_sentence_that_names_the_key_and_shows_no_value(
    keys: dict[str, bytes], key: str, words: str
) -> None:
    with pytest.raises(InvalidConnection) as caught:
        parse_connection(keys, WHERE, EVERYWHERE)
    assert caught.value.message.startswith(f"{WHERE}: key `{key}` ")
    assert words in caught.value.message
    assert "; " in caught.value.message, "it names the way out"
    assert "s3cr3t" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "host",
    [
        b"evil.example",
        b"evilgetdbt.com",
        b"getdbt.com.evil.example",
        b"https://kubernetes.default.svc",
        b"169.254.169.254",
        b"metadata.google.internal",
        b"dbt.corp.example:8443",
        b"[fd00::1]",
    ],
)
def test_only_dbt_clouds_own_hosts_are_allowed_unless_others_are_set(host: bytes) -> None:
    with pytest.raises(
        InvalidConnection, match=r"is not in the allowed domains: getdbt\.com, dbt\.com; .* connectionHosts"
    ):
        parse_connection(GOOD | {"host": host}, WHERE, Hosts())
    parse(host=host)


@pytest.mark.parametrize(
    "host",
    [
        b"localhost",
        b"http://localhost:8080",
        b"https://127.0.0.1",
        b"https://127.0.0.2",
        b"0.0.0.0",
        b"[::1]",
        b"[::ffff:127.0.0.1]",
        b"x.localhost",
    ],
)
def test_this_machine_is_allowed_by_a_setting_alone(host: bytes) -> None:
    with pytest.raises(InvalidConnection, match=r"is this machine; .* loopbackConnections"):
        parse_connection(GOOD | {"host": host}, WHERE, Hosts(("*",)))


def test_a_host_may_be_a_domain_that_is_set_or_below_it() -> None:
    hosts = Hosts(("corp.example",))
    for host in ("corp.example", "dbt.corp.example"):
        assert parse_connection(GOOD | {"host": host.encode()}, WHERE, hosts).host == host
    with pytest.raises(InvalidConnection):
        parse_connection(GOOD, WHERE, hosts)


def test_a_ca_is_taken_as_it_is() -> None:
    pem = trustme.CA().cert_pem.bytes()
    ca = parse_connection(GOOD | {"ca.crt": pem}, WHERE, Hosts()).ca
    assert ca == pem.decode().strip()


def test_a_token_prints_and_formats_as_a_mask() -> None:
    token = Token(SECRET)
    shown = f"{token} {token!r} {token!s} {token:>20} %s" % token + repr([token]) + repr({"token": token})
    assert SECRET not in shown


def test_a_connection_prints_without_its_token() -> None:
    assert SECRET not in f"{parse()} {parse()!r}"


@pytest.mark.parametrize("value", [Token(SECRET), parse_connection(GOOD, WHERE, Hosts())])
@pytest.mark.parametrize("serialise", [json.dumps, msgspec.json.encode, msgspec.to_builtins, pickle.dumps])
def test_a_token_is_not_serialised(value: object, serialise: object) -> None:
    assert callable(serialise)
    with pytest.raises(TypeError) as caught:
        serialise(value)
    assert SECRET not in str(caught.value)


def test_a_copy_of_a_token_is_the_token() -> None:
    token = Token(SECRET)
    assert copy.deepcopy(token) == copy.copy(token) == token


def test_connections_are_equal_when_everything_is() -> None:
    assert parse() == parse()
    assert hash(parse()) == hash(parse())
    different = {
        parse(),
        parse(token=b"other"),
        parse(account_id=b"1"),
        parse(host=b"emea.dbt.com"),
        parse(host=b"https://localhost"),
        parse(host=b"http://localhost"),
    }
    assert len(different) == 6
