"""Every setting of the watcher: its unit, default and reason.

Flags, DBTRUN_* variables and Helm values carry the same names.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from watcher.dbtcloud.hosts import ANY_HOST, DBT_HOSTS, HOST_NAME, Hosts
from watcher.lifecycle.policy import Policy

ENV_PREFIX: Final = "DBTRUN_"
ALL_NAMESPACES: Final = "*"
NAMESPACE: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
OBJECT: Final = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
OWN_NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class InvalidSetting(ValueError):
    """A setting cannot be used; the message names it, its value and what would do."""


def setting(default: Any, doc: str) -> Any:
    """A setting with its default and the text that `--help` and the reference show."""
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How one watcher runs."""

    namespaces: str = setting("", "Namespaces to serve, separated by commas; `*`: all; empty: the watcher's own.")
    connection_secret: str = setting(
        "", "Secret of the default connection, in the watcher's own namespace; empty: there is none."
    )
    connection_dir: str = setting(
        "",
        "Directory with the files of the default connection (token, account-id, host, ca.crt), instead of a Secret.",
    )
    connection_namespaces: str = setting(
        "", "Namespaces that may use the default connection, separated by commas; `*`: all; empty: the watcher's own."
    )
    connection_hosts: str = setting(
        ",".join(DBT_HOSTS), "Domains that a connection's host may be or be below, separated by commas; `*`: any host."
    )
    loopback_connections: bool = setting(
        False, "Let connections name this machine, also by http: for the simulator, in tests."
    )
    kubeconfig: str = setting("", "Path of a kubeconfig; empty: the pod's ServiceAccount. Never looked for elsewhere.")
    context: str = setting("", "Context in the kubeconfig; empty: its current one.")
    listen: str = setting(
        "127.0.0.1:8080", "Address of /healthz, /readyz and /metrics; no host: every address; port 0: any free one."
    )
    log_level: str = setting("info", "debug, info, warning or error.")
    log_format: str = setting("json", "json, or text for people.")
    requests_per_minute: int = setting(
        1500, "Requests to dbt Cloud per account and minute; dbt Cloud allows an account 5,000, the rest is for others."
    )
    feed_interval_seconds: float = setting(
        5.0, "Seconds between two looks at what has finished in an account: how late an end may be seen."
    )
    request_seconds: float = setting(30.0, "Seconds after which a request to dbt Cloud is given up.")
    namespace_weights: str = setting(
        "",
        "Shares of starts and run slots, as `team-a=3,team-b=2`: turns of a namespace for each turn of one without a "
        "weight.",
    )
    submit_window_seconds: float = setting(30.0, "Seconds after its claim within which a start is sent, or not at all.")
    leader_election: bool = setting(True, "Act only while holding a Lease: several watchers never act at once.")
    lease_name: str = setting("dbtrun-watcher", "Name of the Lease, in the watcher's own namespace.")
    lease_seconds: int = setting(
        15, "Seconds after which a watcher that does not renew its Lease is replaced; it stops acting at two thirds."
    )
    quiet_period_seconds: float = setting(
        120.0, "Seconds after a lost answer before the start may be sent again: window, request and list lag together."
    )

    def __post_init__(self) -> None:
        for check in (self._check_numbers, self._check_logs, self._check_periods, self._check_names):
            check()
        self.address, self.weights  # noqa: B018 - they raise when they cannot be used

    def _check_numbers(self) -> None:
        for name in ("requests_per_minute", "feed_interval_seconds", "request_seconds", "submit_window_seconds"):
            if not 0 < getattr(self, name) < math.inf:  # a NaN is neither, and would let a start be sent twice
                raise InvalidSetting(f"{flag(name)} is {getattr(self, name)}: it must be a number greater than 0.")
        if self.lease_seconds < 1:
            raise InvalidSetting(f"{flag('lease_seconds')} is {self.lease_seconds}: it must be at least 1.")

    def _check_logs(self) -> None:
        _one_of("log_level", self.log_level, ("debug", "info", "warning", "error"))
        _one_of("log_format", self.log_format, ("json", "text"))

    def _check_periods(self) -> None:
        least = self.submit_window_seconds + self.request_seconds
        if not least <= self.quiet_period_seconds < math.inf:
            raise InvalidSetting(
                f"{flag('quiet_period_seconds')} is {self.quiet_period_seconds:g}: it must be at least "
                f"{flag('submit_window_seconds')} and {flag('request_seconds')} together ({least:g}), "
                "or a start could be sent twice."
            )

    def _check_names(self) -> None:
        for name in ("namespaces", "connection_namespaces"):
            wrong = [item for item in _names(getattr(self, name)) if not NAMESPACE.fullmatch(item)]
            if wrong and getattr(self, name).strip() != ALL_NAMESPACES:
                raise InvalidSetting(
                    f"{flag(name)} has {wrong[0]!r}, which no namespace is called: write names separated by commas, or "
                    f"`{ALL_NAMESPACES}` alone."
                )
        wrong = [item for item in _names(self.connection_hosts) if not (item == ANY_HOST or HOST_NAME.fullmatch(item))]
        if wrong or not _names(self.connection_hosts):
            raise InvalidSetting(
                f"{flag('connection_hosts')} is {self.connection_hosts!r}: write domains in lower case, separated by "
                f"commas, as {','.join(DBT_HOSTS)}."
            )
        for name in ("lease_name", "connection_secret"):
            value = getattr(self, name)
            if not OBJECT.fullmatch(value) and (value or name == "lease_name"):
                raise InvalidSetting(f"{flag(name)} is {value!r}: write lower-case letters, digits, `-` and `.`.")
        if self.connection_secret and self.connection_dir:
            raise InvalidSetting(
                f"{flag('connection_secret')} and {flag('connection_dir')} are both set: there is one default "
                "connection, so set one of them."
            )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to listen on. An empty host means every address."""
        host, colon, port = self.listen.rpartition(":")
        if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
            raise InvalidSetting(f"{flag('listen')} is {self.listen!r}: write HOST:PORT, as 127.0.0.1:8080.")
        return host.strip("[]"), int(port)

    @property
    def served_namespaces(self) -> tuple[str, ...]:
        """The namespaces to serve; empty: all."""
        return () if self.namespaces.strip() == ALL_NAMESPACES else _names(self.namespaces) or (own_namespace(),)

    def default_connection_serves(self, namespace: str) -> bool:
        """Whether objects of the namespace may use the default connection."""
        if self.connection_namespaces.strip() == ALL_NAMESPACES:
            return True
        return namespace in (_names(self.connection_namespaces) or (own_namespace(),))

    @property
    def weights(self) -> dict[str, int]:
        """The weights of the namespaces that have one.

        Raises:
            InvalidSetting: one is not written as NAMESPACE=NUMBER.
        """
        weights = {}
        for item in _names(self.namespace_weights):
            name, _, weight = item.partition("=")
            if not (NAMESPACE.fullmatch(name) and re.fullmatch(r"[1-9][0-9]{0,2}", weight)):
                raise InvalidSetting(
                    f"{flag('namespace_weights')} has {item!r}: write NAMESPACE=WEIGHT with a weight from 1 to 999, "
                    "separated by commas."
                )
            weights[name] = int(weight)
        return weights

    @property
    def hosts(self) -> Hosts:
        """The hosts that connections may name."""
        return Hosts(_names(self.connection_hosts), self.loopback_connections)

    @property
    def policy(self) -> Policy:
        """The durations of the core, with those that can be set."""
        return Policy(submit_window=self.submit_window_seconds, quiet_period=self.quiet_period_seconds)


def flag(name: str) -> str:
    """A setting's name on the command line."""
    return "--" + name.replace("_", "-")


def described() -> list[tuple[str, str, Any]]:
    """Each setting's name, text and default."""
    return [(item.name, item.metadata["doc"], item.default) for item in fields(Settings)]


def own_namespace() -> str:
    """The namespace of the pod: from POD_NAMESPACE, else from its ServiceAccount, else `default`."""
    named = os.environ.get("POD_NAMESPACE")
    if named:
        return named
    return OWN_NAMESPACE_FILE.read_text().strip() if OWN_NAMESPACE_FILE.exists() else "default"


def own_pod() -> str:
    """The name of the pod, from POD_NAME; empty outside of one."""
    return os.environ.get("POD_NAME", "")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidSetting(f"{flag(name)} is {value!r}: it is one of {', '.join(choices)}.")
