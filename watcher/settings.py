"""Every setting of the watcher: what it does, its unit and default, and the reason for the default.

A setting `log_level` is the flag `--log-level`, the variable DBTRUN_LOG_LEVEL and the Helm value `settings.logLevel`;
the chart chooses a few by other values. `docs/generate.py` writes docs/settings.md from here.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from dbtrun.connection.hosts import ANY_HOST, DBT_HOSTS, HOST_NAME, Hosts
from dbtrun.text import natural
from watcher.lifecycle.policy import Policy

ENV_PREFIX: Final = "DBTRUN_"
ALL_NAMESPACES: Final = "*"
NAMESPACE: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
OBJECT: Final = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9.-]*[a-z0-9])?")
OWN_NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class InvalidSetting(ValueError):
    """A setting cannot be used; the message names it, its value and what would do."""


def setting(default: Any, doc: str, *, unit: str = "", why: str = "") -> Any:
    """A setting with its default, the text that `--help` shows, its unit, and the reason for the default."""
    return field(default=default, metadata={"doc": doc, "unit": unit, "why": why})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How one watcher runs."""

    namespaces: str = setting(
        "",
        "Namespaces to serve, separated by commas; `*`: all; empty: the watcher's own.",
        unit="names",
        why="A watcher needs rights in each namespace that it serves; it has them in its own.",
    )
    connection_secret: str = setting(
        "",
        "Secret of the default connection, in the watcher's own namespace; empty: no default connection.",
        unit="name",
    )
    connection_dir: str = setting(
        "",
        "Directory with the files of the default connection (token, account-id, host, ca.crt), instead of a Secret.",
        unit="path",
        why="For a watcher outside a cluster.",
    )
    connection_namespaces: str = setting(
        "",
        "Namespaces that may use the default connection, separated by commas; `*`: all; empty: the watcher's own.",
        unit="names",
        why="Anyone who may use a connection may start every job that its token can start.",
    )
    connection_projects: str = setting(
        "",
        "Ids of the dbt Cloud projects that a namespace may use with the default connection, as "
        "`team-a=101+102,team-b=103`; `*`: every namespace that is not listed. Without an entry, all projects.",
        unit="NAMESPACE=ID+ID",
        why="The token of the default connection may see projects that are not meant for every namespace.",
    )
    connection_hosts: str = setting(
        ",".join(DBT_HOSTS),
        "Domains, separated by commas: the host of a connection must be one of them or a subdomain; `*`: any host.",
        unit="domains",
        why="dbt Cloud's own domains: a user who may create a Secret must not choose where the watcher connects.",
    )
    loopback_connections: bool = setting(
        False,
        "Allow connections to this machine, also by http: for the simulator, in tests.",
        why="Through a loopback address, a connection could reach other services of the pod or machine.",
    )
    kubeconfig: str = setting(
        "",
        "Path of a kubeconfig; empty: the pod's ServiceAccount. No other file is read.",
        unit="path",
        why="A watcher must not act on the cluster that happens to be in ~/.kube/config.",
    )
    context: str = setting("", "Context in the kubeconfig; empty: its current context.", unit="name")
    listen: str = setting(
        "127.0.0.1:8080",
        "Address of /healthz, /readyz and /metrics; no host: every address; port 0: any free port.",
        unit="HOST:PORT",
        why="Outside a pod, only this machine needs it.",
    )
    webhooks_listen: str = setting(
        "",
        "Address that receives dbt Cloud's webhooks; no host: every address; empty: no webhooks.",
        unit="HOST:PORT",
        why="Without webhooks, the watcher notices ends a few seconds later. An unused port stays closed.",
    )
    log_level: str = setting("info", "debug, info, warning or error.")
    log_format: str = setting(
        "json", "json (one object per line), or text for people.", why="Log collectors parse JSON without a pattern."
    )
    tracing: bool = setting(
        False,
        "Export an OpenTelemetry trace of each attempt; the variables OTEL_EXPORTER_OTLP_* configure the destination.",
        why="It needs the packages of dbtrun[tracing], which the image does not have by default.",
    )
    requests_per_minute: int = setting(
        1500,
        "Maximum number of requests to dbt Cloud for each account. A token that dbt Cloud has not accepted has "
        "60 of its own.",
        unit="requests per minute",
        why="dbt Cloud allows 5,000 for all clients of an account together; the rest is for the others.",
    )
    feed_interval_seconds: float = setting(
        5.0,
        "Time between two requests for newly finished runs of a connection. While dbt Cloud answers, an end is noticed "
        "at most this late.",
        unit="seconds",
        why="12 requests a minute for a connection, however many runs are live.",
    )
    request_seconds: float = setting(
        30.0,
        "Timeout of a request to dbt Cloud.",
        unit="seconds",
        why="The quiet period must be at least this and the submit window together.",
    )
    namespace_weights: str = setting(
        "",
        "Shares of starts and run slots, as `team-a=3,team-b=2`: a namespace gets this many turns for each turn of a "
        "namespace that is not listed.",
        unit="NAMESPACE=NUMBER",
        why="Without weights, all namespaces take turns equally.",
    )
    submit_window_seconds: float = setting(
        30.0,
        "A start is sent within this time of its claim, or not at all.",
        unit="seconds",
        why="It limits how long after a claim a start can reach dbt Cloud. Another watcher repeats it only after that.",
    )
    leader_election: bool = setting(
        True,
        "Act only while holding a Lease, so that several watchers never act at once.",
        why="Even a single replica overlaps with its successor during a rolling update.",
    )
    lease_name: str = setting("dbtrun-watcher", "Name of the Lease, in the watcher's own namespace.", unit="name")
    lease_seconds: int = setting(
        15,
        "A watcher that does not renew its Lease is replaced after this time. It stops acting after two thirds of it.",
        unit="seconds",
        why="The default of Kubernetes' own controllers.",
    )
    quiet_period_seconds: float = setting(
        120.0,
        "Time after which a start whose reply was lost may be sent again, if dbt Cloud has no run of it.",
        unit="seconds",
        why="Submit window and request timeout are 60 s together; the rest is for the delay of dbt Cloud's lists.",
    )

    def __post_init__(self) -> None:
        for check in (
            self._check_numbers,
            self._check_logs,
            self._check_periods,
            self._check_namespaces,
            self._check_hosts,
            self._check_objects,
        ):
            check()
        self.address, self.webhooks_address, self.weights, self.projects  # noqa: B018 - they raise when they cannot be used

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

    def _check_namespaces(self) -> None:
        for name in ("namespaces", "connection_namespaces"):
            wrong = [item for item in _names(getattr(self, name)) if not NAMESPACE.fullmatch(item)]
            if wrong and getattr(self, name).strip() != ALL_NAMESPACES:
                raise InvalidSetting(
                    f"{flag(name)} has {wrong[0]!r}, which is not a valid namespace name: write names separated "
                    f"by commas, or `{ALL_NAMESPACES}` alone."
                )

    def _check_hosts(self) -> None:
        wrong = [item for item in _names(self.connection_hosts) if not (item == ANY_HOST or HOST_NAME.fullmatch(item))]
        if wrong or not _names(self.connection_hosts):
            raise InvalidSetting(
                f"{flag('connection_hosts')} is {self.connection_hosts!r}: write domains in lower case, separated by "
                f"commas, such as {','.join(DBT_HOSTS)}."
            )

    def _check_objects(self) -> None:
        for name in ("lease_name", "connection_secret"):
            value = getattr(self, name)
            # Without a name, the API server would refuse the Lease at each try, and no watcher would ever be active.
            if not OBJECT.fullmatch(value) and (value or name == "lease_name"):
                raise InvalidSetting(f"{flag(name)} is {value!r}: write lower-case letters, digits, `-` and `.`.")
        if self.connection_secret and self.connection_dir:
            raise InvalidSetting(
                f"{flag('connection_secret')} and {flag('connection_dir')} are both set: there is one default "
                "connection, so set one of them."
            )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to listen on. An empty host means every address.

        Raises:
            InvalidSetting: it is not HOST:PORT.
        """
        return _address("listen", self.listen)

    @property
    def webhooks_address(self) -> tuple[str, int] | None:
        """Host and port to take webhooks on; None: none are taken.

        Raises:
            InvalidSetting: it is not HOST:PORT.
        """
        return _address("webhooks_listen", self.webhooks_listen) if self.webhooks_listen else None

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

    @cached_property
    def projects(self) -> dict[str, frozenset[int]]:
        """The projects that the namespaces with a limit may use with the default connection.

        Raises:
            InvalidSetting: one is not written as NAMESPACE=ID+ID.
        """
        projects = {}
        for item in _names(self.connection_projects):
            name, equals, ids = item.partition("=")
            known = name == ALL_NAMESPACES or NAMESPACE.fullmatch(name)
            # A second entry for a namespace would replace the first, and with it a limit that somebody relies on.
            if not (known and equals and re.fullmatch(r"([0-9]{1,18}(\+[0-9]{1,18})*)?", ids)) or name in projects:
                raise InvalidSetting(
                    f"{flag('connection_projects')} has {item!r}: write NAMESPACE=ID+ID once for each namespace, "
                    f"separated by commas; `{ALL_NAMESPACES}` is every namespace that is not listed."
                )
            projects[name] = frozenset(int(number) for number in ids.split("+") if number)
        return projects

    def projects_of(self, namespace: str) -> frozenset[int] | None:
        """The only projects that the namespace may use with the default connection; None: all."""
        return self.projects.get(namespace, self.projects.get(ALL_NAMESPACES))

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


def own_address() -> str:
    """The IP address of the pod, from POD_IP; empty outside of one."""
    return os.environ.get("POD_IP", "")


def _address(name: str, value: str) -> tuple[str, int]:
    # At the last colon: an IPv6 address has others.
    host, colon, port = value.rpartition(":")
    number = natural(port)
    if not colon or number is None or number > 65_535:
        raise InvalidSetting(f"{flag(name)} is {value!r}: write HOST:PORT, such as 127.0.0.1:8080.")
    return host.strip("[]"), number


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidSetting(f"{flag(name)} is {value!r}: it is one of {', '.join(choices)}.")
