"""A connection to dbt Cloud, read from the keys of a Secret and checked before anything is sent with it.

The values of a Secret never appear in a message: people put tokens under the wrong key.
"""

from __future__ import annotations

import functools
import hmac
import ipaddress
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, NoReturn
from urllib.parse import SplitResult, urlsplit

import idna

from dbtrun.connection.hosts import HOST_NAME, Hosts

DEFAULT_HOST: Final = "cloud.getdbt.com"
MASK: Final = "**********"
MAX_ACCOUNT_ID: Final = 2**63 - 1
MAX_RUNS: Final = 99999
LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})


WEBHOOK_KEYS: Final = ("webhook-secret", "webhook-secret-previous")
"""An empty value is no secret: it would sign for everybody."""
DEFAULT_PORTS: Final = {"https": 443, "http": 80}


class InvalidConnection(ValueError):
    """A connection cannot be used; the message names where it is kept, the key and the way out, and shows no value."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Token:
    """A secret string that prints, formats and serialises as a mask."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The secret itself, for the Authorization header alone."""
        return self._value

    def __repr__(self) -> str:
        return f"Token('{MASK}')"

    def __str__(self) -> str:
        return MASK

    def __format__(self, spec: str) -> str:
        return format(MASK, spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Token) and hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Token, self._value))

    def __copy__(self) -> Token:
        return self

    def __deepcopy__(self, memo: object) -> Token:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a token is never serialised")


@dataclass(frozen=True, slots=True, kw_only=True)
class Connection:
    """Where dbt Cloud is, which account, and as whom. Two equal connections share one client and one poller."""

    host: str
    """Host name, with a port if it is not the scheme's own."""
    account_id: int
    token: Token
    ca: str | None = field(default=None, repr=False)
    """PEM certificates trusted instead of the usual ones; None: the usual ones."""
    max_runs: int | None = None
    """Live runs of the account at which nothing more is started; None: no limit."""
    webhook_url: str | None = None
    """Where dbt Cloud sends webhooks for it, if the watcher is to keep that webhook active."""
    webhook_token: Token | None = None
    """The token that may do so; None: the usual one."""
    tls: bool = True
    """False only for loopback: the simulator."""

    def __str__(self) -> str:
        return f"{self.host}, account {self.account_id}"

    @property
    def base_url(self) -> str:
        """The origin, without a slash at the end."""
        return f"{'https' if self.tls else 'http'}://{self.host}"

    @property
    def loopback(self) -> bool:
        """Whether the host is this machine, which no proxy may serve."""
        return urlsplit(self.base_url).hostname in LOOPBACK


def parse_connection(data: Mapping[str, bytes], where: str, hosts: Hosts) -> Connection:
    """Reads a connection from the keys of a Secret, or from files of the same names.

    Args:
        data: `token` and `account-id`; optional `host` (default cloud.getdbt.com), `ca.crt`, `max-concurrent-runs`,
            `webhook-url` and `webhook-token`.
        where: what holds the keys, as "Secret team/dbt-cloud": it opens every message.
        hosts: those that it may name.

    Raises:
        InvalidConnection: a key is missing or unusable.
    """
    keys = _Keys(data, where)
    origin = _host(keys, hosts)
    remedy = "put the number there that follows /accounts/ or /deploy/ in dbt Cloud's URLs"
    account_id = keys.number(
        "account-id", keys.required("account-id", remedy), MAX_ACCOUNT_ID, "is not the number of an account", remedy
    )
    token = _token(keys)
    ca = keys.text("ca.crt")
    if ca is not None:
        ca = ca.encode("ascii", "ignore").decode()  # bundles name CAs in comments; OpenSSL takes ASCII alone
        if not _are_certificates(ca):
            keys.refuse("ca.crt", "holds no PEM certificates", "put the CA's PEM text there, or remove the key")
    max_runs = None
    if (text := keys.text("max-concurrent-runs")) is not None:
        remedy = "write how many runs of the account may be live at once, or remove the key for no limit"
        max_runs = keys.number("max-concurrent-runs", text, MAX_RUNS, f"is not a number from 1 to {MAX_RUNS}", remedy)
    webhook_url = keys.text("webhook-url") or None
    if webhook_url is not None and not re.fullmatch(r"https?://[!-~]{1,2000}", webhook_url):
        keys.refuse("webhook-url", "is not the address of a webhook", "write it as it is in dbt Cloud, with https://")
    return Connection(
        host=origin.host,
        tls=origin.tls,
        account_id=account_id,
        token=token,
        ca=ca,
        max_runs=max_runs,
        webhook_url=webhook_url,
        webhook_token=_token(keys, "webhook-token") if keys.text("webhook-token") else None,
    )


def webhook_secrets(data: Mapping[str, bytes], where: str) -> tuple[Token, ...]:
    """The secrets that sign dbt Cloud's webhooks for this connection: the present one, and while rotating another.

    Raises:
        InvalidConnection: one is not text.
    """
    keys = _Keys(data, where)
    return tuple(Token(value) for value in map(keys.text, WEBHOOK_KEYS) if value)


class _Origin(NamedTuple):
    host: str
    tls: bool


class _Keys(NamedTuple):
    data: Mapping[str, bytes]
    where: str

    def text(self, key: str) -> str | None:
        """The key's text without surrounding whitespace (editors and `echo` add newlines); None if there is no key."""
        if key not in self.data:
            return None
        try:
            return self.data[key].decode().strip()
        except UnicodeDecodeError:
            self.refuse(key, "is not UTF-8 text", "store it as plain text")

    def required(self, key: str, remedy: str) -> str:
        value = self.text(key)
        if value is None:
            self.refuse(key, "is missing", remedy)
        if not value:
            self.refuse(key, "is empty", remedy)
        return value

    def number(self, key: str, value: str, most: int, wrong: str, remedy: str) -> int:
        """The number from 1 to `most` that is the key's value."""
        # The digits are limited first: int() refuses thousands of them.
        if not re.fullmatch(rf"[0-9]{{1,{len(str(most))}}}", value) or not 0 < int(value) <= most:
            self.refuse(key, wrong, remedy)
        return int(value)

    def refuse(self, key: str, wrong: str, remedy: str) -> NoReturn:
        raise InvalidConnection(f"{self.where}: key `{key}` {wrong}; {remedy}.")


def _token(keys: _Keys, key: str = "token") -> Token:
    value = keys.required(key, "put a dbt Cloud service token there")
    # h11 refuses any other character in a header, with an error that quotes the token.
    if not (value.isascii() and value.isprintable() and " " not in value):
        keys.refuse(key, "has spaces or characters that no token has", "copy the dbt Cloud token again, alone")
    return Token(value)


def _host(keys: _Keys, hosts: Hosts) -> _Origin:
    value = keys.text("host") if "host" in keys.data else DEFAULT_HOST
    if not value:
        keys.refuse("host", "is empty", f"put your access URL's host there, or remove the key for {DEFAULT_HOST}")
    if not (value.isascii() and value.isprintable() and " " not in value):
        keys.refuse("host", "has spaces or characters that no host name has", "write a host name, such as emea.dbt.com")
    try:
        parts = urlsplit(value if "://" in value else f"https://{value}")
        port = parts.port
    except ValueError:
        keys.refuse("host", "has an invalid port or address", "write a host name, such as emea.dbt.com")
    if parts.scheme not in ("https", "http"):
        keys.refuse("host", "has a scheme other than https", "write the host name alone, such as emea.dbt.com")
    if "@" in parts.netloc:
        keys.refuse("host", "contains a user or a password", "write the host name alone and the token under `token`")
    # urlsplit drops an empty query or fragment, so these are looked for in the text.
    if parts.path not in ("", "/") or "?" in value or "#" in value:
        keys.refuse("host", "has a path or a query", "write the host name alone, such as emea.dbt.com")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        keys.refuse("host", "would send the token unencrypted", "write https:// (http:// is for loopback alone)")
    name = _name(keys, parts)
    _refuse_other_hosts(keys, name, hosts)
    # One account is one, however its host is written: without the scheme's own port.
    suffix = "" if port in (None, DEFAULT_PORTS[parts.scheme]) else f":{port}"
    return _Origin(name + suffix, tls=parts.scheme == "https")


def _refuse_other_hosts(keys: _Keys, name: str, hosts: Hosts) -> None:
    if _is_loopback(name):
        if not hosts.loopback:
            keys.refuse("host", "is this machine", "name dbt Cloud's host (the simulator needs loopbackConnections)")
    elif not hosts.allow(name):
        allowed = ", ".join(hosts.suffixes)
        keys.refuse(
            "host",
            f"is not in the allowed domains: {allowed}",
            "correct it, or add its domain to the watcher's connectionHosts",
        )


def _is_loopback(name: str) -> bool:
    try:
        address = ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
    # `::ffff:127.0.0.1` is this machine, too, and so is 0.0.0.0 for a client on Linux.
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_loopback or mapped.is_unspecified


def _name(keys: _Keys, parts: SplitResult) -> str:
    name = parts.hostname or ""
    try:
        if ":" in name:
            return f"[{ipaddress.IPv6Address(name)}]"
        usable = HOST_NAME.fullmatch(name) and not parts.netloc.endswith(":") and parts.port != 0
        # As httpx does, which sends nothing to a name such as `xn--a`: it looks like one and is none (RFC 5891).
        if usable and name.startswith("xn--"):
            idna.decode(name)
    except ValueError:  # idna.IDNAError is one, too
        usable = False
    if not usable:
        keys.refuse("host", "is not a host name", "write one with an optional port, such as emea.dbt.com")
    return name


@functools.lru_cache(maxsize=64)
def _are_certificates(pem: str) -> bool:
    """Remembered: a large bundle takes milliseconds, and each object that uses the connection reads it."""
    try:
        ssl.create_default_context(cadata=pem or "empty")  # an empty one would mean the usual certificates
    except (ssl.SSLError, ValueError):
        return False
    return True
