"""What is counted. No label ever holds the name or uid of a run: their number has no bound."""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any, Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class Budget(Protocol):
    """Requests by what they were for."""

    @property
    def spent(self) -> Count[Any]: ...


class Poller(Protocol):
    """How many runs are polled, and in which dearer ways."""

    @property
    def following(self) -> int: ...
    @property
    def fallbacks(self) -> tuple[str, ...]: ...


class Slots(Protocol):
    """Run slots of a connection that limits concurrent runs."""

    @property
    def limit(self) -> int: ...
    @property
    def used(self) -> int | None: ...
    @property
    def waiting(self) -> int: ...


class Containment(Protocol):
    """Whether a connection can be used."""

    @property
    def reason(self) -> str | None: ...


class Account(Protocol):
    """What is counted of a connection to dbt Cloud."""

    @property
    def containment(self) -> Containment: ...

    @property
    def budget(self) -> Budget: ...
    @property
    def poller(self) -> Poller: ...
    @property
    def slots(self) -> Slots | None: ...


class Part(Protocol):
    """A part that must go on."""

    @property
    def name(self) -> str: ...
    @property
    def limit(self) -> float: ...


class Scope(Protocol):
    """A namespace that is served, or all of them."""

    @property
    def problem(self) -> str | None: ...
    @property
    def synced(self) -> bool: ...


class Metrics:
    """All metrics of one watcher, in a registry of their own so that tests can have several."""

    def __init__(self) -> None:
        registry: Final = CollectorRegistry()
        self.registry = registry
        self.reconciles = Counter("dbtrun_reconciles", "Looks at an object, whatever came of them.", registry=registry)
        self.decisions = Counter("dbtrun_decisions", "Decisions carried out.", ["decision"], registry=registry)
        self.finished = Counter("dbtrun_finished", "Ends, by phase and reason.", ["phase", "reason"], registry=registry)
        self.failures = Counter(
            "dbtrun_reconcile_failures", "Reconciles that met an unexpected error.", registry=registry
        )
        self.failing = Gauge(
            "dbtrun_reconciles_failing", "Objects whose last reconcile failed; each is tried again.", registry=registry
        )
        self.contested = Gauge(
            "dbtrun_contested_objects",
            "Objects that another watcher follows in another dbt Cloud account.",
            registry=registry,
        )
        self.oldest_step = Gauge(
            "dbtrun_reconcile_oldest_seconds", "Age of the step that has been under way longest.", registry=registry
        )
        self.unreadable = Gauge(
            "dbtrun_objects_unreadable", "Objects that cannot be read, so nothing is done for them.", registry=registry
        )
        self.watch_restarts = Counter("dbtrun_watch_restarts", "Watches that ended or were dead.", registry=registry)
        self.restores = Counter(
            "dbtrun_restores", "Times that DbtRuns went back to older versions: restores of etcd.", registry=registry
        )
        self.crd_fields_missing = Gauge(
            "dbtrun_crd_fields_missing",
            "Fields and values of this release that the served CRD lacks: the API server drops them.",
            registry=registry,
        )
        self.watch_broken = Gauge(
            "dbtrun_watch_broken", "1 while DbtRuns cannot be listed or watched.", registry=registry
        )
        self.namespace_served = Gauge(
            "dbtrun_namespace_served",
            "1 while the DbtRuns of a namespace are listed and watched; an empty name means all namespaces.",
            ["namespace"],
            registry=registry,
        )
        self.clock_offset = Gauge(
            "dbtrun_clock_offset_seconds", "The API server's clock minus this machine's.", registry=registry
        )
        self.leader = Gauge(
            "dbtrun_leader", "1 while this watcher holds the Lease and acts, 0 while it stands by.", registry=registry
        )
        self.loop_lag = Histogram(
            "dbtrun_loop_lag_seconds",
            "How late the event loop was, once a second.",
            buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 5, 10, 30, 60),
            registry=registry,
        )
        self.connection_faults = Counter(
            "dbtrun_connection_faults", "Faults of connections to dbt Cloud, by reason.", ["reason"], registry=registry
        )
        self.conflicts = Counter("dbtrun_write_conflicts", "Writes refused: the object had changed.", registry=registry)
        self.known = Gauge("dbtrun_objects", "DbtRuns known.", registry=registry)
        self.active = Gauge("dbtrun_reconciles_active", "Objects being worked on right now.", registry=registry)
        self.end_lag = Histogram(
            "dbtrun_end_lag_seconds",
            "From a run's end by dbt Cloud's clock to its final status.",
            buckets=(0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 900),
            registry=registry,
        )

    def watch(self, accounts: Iterable[Account]) -> None:
        """Shows what the accounts count themselves; iterated anew at each scrape."""
        self.registry.register(_Accounts(accounts))

    def watch_scopes(self, scopes: Mapping[str, Scope]) -> None:
        """Shows which of the namespaces that the settings name are served; asked at each scrape."""
        for name, scope in scopes.items():
            self.namespace_served.labels(name).set_function(partial(_served, scope))

    def watch_parts(self, parts: Iterable[tuple[Part, float]]) -> None:
        """Shows how long each part has been silent; iterated anew at each scrape."""
        self.registry.register(_Parts(parts))


def _served(scope: Scope) -> float:
    return scope.synced and scope.problem is None


@dataclass(eq=False)
class _Parts(Collector):
    parts: Iterable[tuple[Part, float]]

    def collect(self) -> Iterator[Metric]:
        silent = GaugeMetricFamily(
            "dbtrun_part_silent_seconds", "Since a part last gave a sign of life.", labels=["part"]
        )
        limit = GaugeMetricFamily(
            "dbtrun_part_limit_seconds", "Silence after which the liveness probe fails.", labels=["part"]
        )
        for part, seconds in self.parts:
            silent.add_metric([part.name], seconds)
            limit.add_metric([part.name], part.limit)
        yield silent
        yield limit


@dataclass(eq=False)
class _Accounts(Collector):
    accounts: Iterable[Account]

    def collect(self) -> Iterator[Metric]:
        accounts = list(self.accounts)
        spent: Count[Enum] = Count()
        for budget in {id(account.budget): account.budget for account in accounts}.values():
            spent.update(budget.spent)
        requests = CounterMetricFamily("dbtrun_dbt_cloud_requests", "Requests to dbt Cloud.", labels=["purpose"])
        for purpose, count in spent.items():
            requests.add_metric([purpose.name.lower()], count)
        yield requests
        followed = sum(account.poller.following for account in accounts)
        yield GaugeMetricFamily("dbtrun_followed_runs", "dbt Cloud runs that are polled.", value=followed)
        slots = GaugeMetricFamily(
            "dbtrun_run_slots", "Run slots of connections that limit concurrent runs.", labels=["state"]
        )
        limited = [account.slots for account in accounts if account.slots is not None]
        slots.add_metric(["limit"], sum(each.limit for each in limited))
        slots.add_metric(["used"], sum(each.used or 0 for each in limited))
        slots.add_metric(["waiting"], sum(each.waiting for each in limited))
        yield slots
        broken = GaugeMetricFamily(
            "dbtrun_broken_connections", "Connections whose last poll or question failed, by reason.", labels=["reason"]
        )
        for reason, count in Count(filter(None, (account.containment.reason for account in accounts))).items():
            broken.add_metric([reason], count)
        yield broken
        dear = sum(bool(account.poller.fallbacks) for account in accounts)
        yield GaugeMetricFamily("dbtrun_fallback_connections", "Connections whose filters do not work.", value=dear)
