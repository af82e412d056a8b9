"""What is counted. No label ever holds the name or uid of a run: their number has no bound."""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
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


class Account(Protocol):
    """What is counted of a connection to dbt Cloud."""

    @property
    def budget(self) -> Budget: ...
    @property
    def poller(self) -> Poller: ...


class Metrics:
    """All metrics of one watcher, in a registry of their own so that tests can have several."""

    def __init__(self) -> None:
        registry: Final = CollectorRegistry()
        self.registry = registry
        self.decisions = Counter("dbtrun_decisions", "Decisions carried out.", ["decision"], registry=registry)
        self.finished = Counter("dbtrun_finished", "Ends, by phase and reason.", ["phase", "reason"], registry=registry)
        self.failures = Counter(
            "dbtrun_reconcile_failures", "Reconciles that met an unexpected error.", registry=registry
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
        dear = sum(bool(account.poller.fallbacks) for account in accounts)
        yield GaugeMetricFamily("dbtrun_fallback_connections", "Connections whose filters do not work.", value=dear)
