"""What is counted. No label ever holds the name or uid of a run: their number has no bound.

Jobs and accounts have labels, of which there are at most so many: anyone who may create objects and Secrets must not be
able to fill the memory of Prometheus.
"""

from __future__ import annotations

import platform
from collections import Counter as Count
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

MAX_JOBS: Final = 200
"""Jobs that have labels of their own: each costs about twenty lines of a scrape."""
MAX_ACCOUNTS: Final = 100
"""The same for accounts."""
OTHERS: Final = ("", "other")
"""Labels of the jobs beyond those: of no namespace."""
ENDS: Final = ("Succeeded", "Failed", "Cancelled", "TimedOut", "Error")
"""The phases in which an object ends."""


disable_created_metrics()  # type: ignore[no-untyped-call]  # else each counter brings a second series, with the time at which it began


class Budget(Protocol):
    """The requests of an account, and what may be sent."""

    @property
    def spent(self) -> Count[Any]: ...
    @property
    def per_minute(self) -> float: ...
    @property
    def left(self) -> float: ...
    @property
    def waiting(self) -> int: ...
    @property
    def paused(self) -> float: ...


class Share(Protocol):
    """Whether dbt Cloud has accepted the token: until then it may name any account."""

    @property
    def proven(self) -> bool: ...


class Connection(Protocol):
    """Where the account is."""

    @property
    def host(self) -> str: ...
    @property
    def account_id(self) -> int: ...


class Starts(Protocol):
    """Objects that wait for a request of theirs to be sent."""

    @property
    def waiting(self) -> Mapping[str, int]: ...


class Poller(Protocol):
    """How many runs are polled, and which more expensive ways are in use."""

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
    @property
    def waiting_in(self) -> Mapping[str, int]: ...


class Containment(Protocol):
    """Whether a connection can be used."""

    @property
    def reason(self) -> str | None: ...


class Account(Protocol):
    """What is counted of a connection to dbt Cloud."""

    @property
    def connection(self) -> Connection: ...
    @property
    def share(self) -> Share: ...
    @property
    def containment(self) -> Containment: ...
    @property
    def budget(self) -> Budget: ...
    @property
    def starts(self) -> Starts: ...
    @property
    def searches(self) -> Starts: ...
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


Place = tuple[str, str, str]
"""Namespace, phase, reason."""
Job = tuple[str, int]
"""Namespace and the job's id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """The objects as they are now."""

    objects: Mapping[Place, int] = field(default_factory=dict)
    oldest: Mapping[Place, float] = field(default_factory=dict)
    """Of those that have not ended: seconds for which one has been in its phase, for its reason."""
    unreachable: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By namespace and reason."""
    slots_used: Mapping[str, int] = field(default_factory=dict)
    """By namespace."""
    running: Mapping[Job, float] = field(default_factory=dict)
    """Seconds for which a run of the job has been running."""
    expected: Mapping[Job, float] = field(default_factory=dict)
    """Seconds that a run of the job usually takes."""
    failures: Mapping[Job, int] = field(default_factory=dict)
    """Since the job's last success."""


class Metrics:
    """All metrics of one watcher, in a registry of their own so that tests can have several."""

    def __init__(self, version: str = "0") -> None:
        registry: Final = CollectorRegistry()
        self.registry = registry
        self._jobs: dict[Job, tuple[str, str]] = {}
        Info(
            "dbtrun_build",
            "Always 1. The labels are the versions of the watcher and of Python.",
            registry=registry,
        ).info({"version": version, "python": platform.python_version()})
        ProcessCollector(registry=registry)

        # Objects and their reconciles.
        self.known = Gauge("dbtrun_objects", "DbtRuns known.", registry=registry)
        self.active = Gauge("dbtrun_reconciles_active", "Objects that are being reconciled now.", registry=registry)
        self.reconciles = Counter("dbtrun_reconciles", "Reconciles of an object, with any result.", registry=registry)
        self.decisions = Counter("dbtrun_decisions", "Decisions carried out.", ["decision"], registry=registry)
        self.finished = Counter(
            "dbtrun_finished", "DbtRuns that ended, by phase and reason.", ["phase", "reason"], registry=registry
        )
        self.failures = Counter(
            "dbtrun_reconcile_failures", "Reconciles that failed with an unexpected error.", registry=registry
        )
        self.failing = Gauge(
            "dbtrun_reconciles_failing", "Objects whose last reconcile failed; each is retried.", registry=registry
        )
        self.contested = Gauge(
            "dbtrun_contested_objects",
            "Objects that another watcher follows in another dbt Cloud account.",
            registry=registry,
        )
        self.oldest_step = Gauge(
            "dbtrun_reconcile_oldest_seconds", "Age of the longest-running reconcile.", registry=registry
        )
        self.unreadable = Gauge(
            "dbtrun_objects_unreadable",
            "Objects that the watcher cannot read and therefore ignores.",
            registry=registry,
        )

        # The API server, the Lease and this process.
        self.watch_restarts = Counter(
            "dbtrun_watch_restarts", "Watches that ended or stopped delivering events.", registry=registry
        )
        self.restores = Counter(
            "dbtrun_restores",
            "How often DbtRuns went back to older versions, as after a restore of etcd.",
            registry=registry,
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
            "dbtrun_leader",
            "1 while this watcher holds the Lease and is active, 0 while it is a standby.",
            registry=registry,
        )
        self.loop_lag = Histogram(
            "dbtrun_loop_lag_seconds",
            "Delay of the event loop, measured once a second.",
            buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 5, 10, 30, 60),
            registry=registry,
        )
        self.conflicts = Counter(
            "dbtrun_write_conflicts",
            "Writes that the API server refused because the object had changed.",
            registry=registry,
        )

        # DbtRunMirrors.
        self.mirrors = Gauge("dbtrun_mirrors", "DbtRunMirrors known.", registry=registry)
        self.mirror_lag = Gauge(
            "dbtrun_mirror_lag_seconds",
            "Largest lag of a DbtRunMirror behind dbt Cloud, in seconds, as of its last saved status.",
            registry=registry,
        )
        self.mirror_runs = Counter(
            "dbtrun_mirror_runs",
            "Runs that DbtRunMirrors have processed, by outcome: created; own or other_cluster (started by a "
            "DbtRun); pruned (the DbtRun was deleted).",
            ["outcome"],
            registry=registry,
        )
        self.mirror_late_runs = Counter(
            "dbtrun_mirror_late_runs",
            "Finished runs that dbt Cloud listed more than two minutes after their end.",
            registry=registry,
        )

        # Webhooks.
        self.webhooks = Counter(
            "dbtrun_webhooks",
            "Requests to the receiver of webhooks, by outcome: accepted, unused (nothing waits for the run), "
            "duplicate, relayed (to the active watcher), and the reasons of refusals.",
            ["outcome"],
            registry=registry,
        )
        self.webhook_duration = Histogram(
            "dbtrun_webhook_duration_seconds",
            "From the headers of a webhook to its answer.",
            buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 3, 10),
            registry=registry,
        )
        self.webhook_looks = Counter(
            "dbtrun_webhook_looks", "Requests to dbt Cloud that were caused by webhooks.", registry=registry
        )
        self.webhook_subscriptions = Counter(
            "dbtrun_webhook_subscription_looks",
            "Checks of a connection's webhook in dbt Cloud, by result: active, activated, inactive, missing, "
            "refused or failed.",
            ["state"],
            registry=registry,
        )

        # dbt Cloud: how late ends are seen, and the requests for them.
        self.connection_faults = Counter(
            "dbtrun_connection_faults", "Faults of connections to dbt Cloud, by reason.", ["reason"], registry=registry
        )
        self.end_lag = Histogram(
            "dbtrun_end_lag_seconds",
            "From a run's end by dbt Cloud's clock to its final status.",
            buckets=(0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 900),
            registry=registry,
        )
        self.requests = Counter(
            "dbtrun_dbt_cloud_requests",
            "Requests to dbt Cloud, by purpose: cancel, submit, poll or details.",
            ["purpose"],
            registry=registry,
        )
        self.request_duration = Histogram(
            "dbtrun_dbt_cloud_request_duration_seconds",
            "From sending a request to the end of its reply, by the kind of request and its outcome.",
            ["kind", "outcome"],
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )

        # Jobs.
        self.job_finished = Counter(
            "dbtrun_job_finished",
            f"Ends of DbtRuns by job and phase. Beyond {MAX_JOBS} jobs, the label job_id is `other`.",
            ["namespace", "job_id", "phase"],
            registry=registry,
        )
        self.job_duration = Histogram(
            "dbtrun_job_duration_seconds",
            "Duration of the runs that succeeded, by job.",
            ["namespace", "job_id"],
            buckets=(30, 60, 120, 300, 600, 1200, 2400, 3600, 7200, 14400),
            registry=registry,
        )

    def job(self, namespace: str, job_id: int) -> tuple[str, str]:
        """The labels of a job. From here on its ends are counted, from 0, so that the first one can be seen."""
        known = self._jobs.get((namespace, job_id))
        if known is not None or len(self._jobs) >= MAX_JOBS:
            return known or OTHERS
        labels = self._jobs[namespace, job_id] = (namespace, str(job_id))
        # Prometheus' increase() does not count the step from no series to 1.
        for phase in ENDS:
            self.job_finished.labels(*labels, phase)
        return labels

    def sent(self, kind: str, outcome: str, purpose: str, seconds: float) -> None:
        """Counts a request to dbt Cloud that has come to an end."""
        self.requests.labels(purpose).inc()
        self.request_duration.labels(kind, outcome).observe(seconds)

    def webhook(self, outcome: str, seconds: float) -> None:
        """Counts a request to the receiver of webhooks."""
        self.webhooks.labels(outcome).inc()
        self.webhook_duration.observe(seconds)

    def watch_objects(self, census: Callable[[], Census]) -> None:
        """Shows the objects; counted at each scrape."""
        self.registry.register(_Objects(census, self.job))

    def watch(self, accounts: Iterable[Account]) -> None:
        """Shows what the accounts count themselves, as it is at each scrape."""
        self.registry.register(_Accounts(accounts))

    def watch_scopes(self, scopes: Mapping[str, Scope]) -> None:
        """Shows which of the namespaces that the settings name are served; asked at each scrape."""
        for name, scope in scopes.items():
            self.namespace_served.labels(name).set_function(partial(_served, scope))

    def watch_parts(self, parts: Iterable[tuple[Part, float]]) -> None:
        """Shows how long each part has been silent, as it is at each scrape."""
        self.registry.register(_Parts(parts))


def _served(scope: Scope) -> float:
    return scope.synced and scope.problem is None


@dataclass(eq=False)
class _Parts(Collector):
    parts: Iterable[tuple[Part, float]]

    def collect(self) -> Iterator[Metric]:
        silent = GaugeMetricFamily(
            "dbtrun_part_silent_seconds", "Seconds since a component last made progress.", labels=["part"]
        )
        limit = GaugeMetricFamily(
            "dbtrun_part_limit_seconds",
            "Seconds without progress after which the liveness probe fails.",
            labels=["part"],
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
        yield from _budgets(accounts)
        yield _by_namespace(
            "dbtrun_starts_waiting",
            "DbtRuns that wait for the watcher to send their start, or the search before it, by namespace.",
            (each.waiting for account in accounts for each in (account.starts, account.searches)),
        )
        yield _by_namespace(
            "dbtrun_run_slots_waiting",
            "DbtRuns that wait for a run slot of their connection, by namespace.",
            (account.slots.waiting_in for account in accounts if account.slots is not None),
        )
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
            "dbtrun_broken_connections", "Connections whose last request failed, by reason.", labels=["reason"]
        )
        for reason, count in Count(filter(None, (account.containment.reason for account in accounts))).items():
            broken.add_metric([reason], count)
        yield broken
        dear = sum(bool(account.poller.fallbacks) for account in accounts)
        yield GaugeMetricFamily(
            "dbtrun_fallback_connections",
            "Connections for which dbt Cloud ignores filters, so that polling is more expensive.",
            value=dear,
        )


def _budgets(accounts: Iterable[Account]) -> Iterator[Metric]:
    """One line for each account that dbt Cloud has shown to belong to a token."""
    # Connections of one account share its budget: as a dict, each account is exported once. Two samples with the same
    # labels make a scrape invalid.
    proven = {
        (account.connection.host, str(account.connection.account_id)): account.budget
        for account in accounts
        if account.share.proven
    }
    labels = ["host", "account"]
    sent = CounterMetricFamily("dbtrun_account_requests", "Requests to a dbt Cloud account.", labels=labels)
    limit = GaugeMetricFamily(
        "dbtrun_account_requests_per_minute_limit",
        "Requests that may be sent to the account in a minute.",
        labels=labels,
    )
    left = GaugeMetricFamily(
        "dbtrun_account_requests_left",
        "Requests that may currently be sent to the account without waiting.",
        labels=labels,
    )
    waiting = GaugeMetricFamily(
        "dbtrun_account_requests_waiting", "Requests that wait for the budget of the account.", labels=labels
    )
    paused = GaugeMetricFamily(
        "dbtrun_account_paused_seconds",
        "Seconds until requests to the account resume, after a 429 of dbt Cloud.",
        labels=labels,
    )
    for place, budget in list(proven.items())[:MAX_ACCOUNTS]:
        sent.add_metric(place, budget.spent.total())
        limit.add_metric(place, budget.per_minute)
        left.add_metric(place, budget.left)
        waiting.add_metric(place, budget.waiting)
        paused.add_metric(place, budget.paused)
    yield from (sent, limit, left, waiting, paused)


def _by_namespace(name: str, meaning: str, counts: Iterable[Mapping[str, int]]) -> Metric:
    total: Count[str] = Count()
    for each in counts:
        total.update(each)
    return _gauge(name, meaning, ["namespace"], (((namespace,), count) for namespace, count in total.items()))


def _gauge(name: str, meaning: str, labels: list[str], values: Iterable[tuple[Sequence[str], float]]) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=labels)
    for key, value in values:
        family.add_metric(key, value)
    return family


@dataclass(eq=False)
class _Objects(Collector):
    census: Callable[[], Census]
    job: Callable[[str, int], tuple[str, str]]

    def collect(self) -> Iterator[Metric]:
        now = self.census()
        place = ["namespace", "phase", "reason"]
        yield _gauge(
            "dbtrun_objects_by_phase",
            "DbtRuns by namespace, phase and reason. Only the leader reports.",
            place,
            now.objects.items(),
        )
        yield _gauge(
            "dbtrun_oldest_in_phase_seconds",
            "Longest time that a DbtRun that has not ended has been in its phase for its reason.",
            place,
            now.oldest.items(),
        )
        yield _gauge(
            "dbtrun_unreachable_objects",
            "DbtRuns whose condition Reachable is False, by namespace and reason.",
            ["namespace", "reason"],
            now.unreachable.items(),
        )
        yield _gauge(
            "dbtrun_run_slots_used",
            "Runs of DbtRuns whose connection limits concurrent runs, by namespace.",
            ["namespace"],
            (((namespace,), count) for namespace, count in now.slots_used.items()),
        )
        yield self._of_jobs(
            "dbtrun_job_running_seconds", "For how long a run of the job has been running.", now.running
        )
        yield self._of_jobs(
            "dbtrun_job_expected_seconds", "How long a run of the job usually takes, by its last runs.", now.expected
        )
        yield self._of_jobs(
            "dbtrun_job_failures_in_a_row", "DbtRuns of the job that have failed since its last success.", now.failures
        )

    def _of_jobs(self, name: str, meaning: str, values: Mapping[Job, float]) -> Metric:
        labelled: dict[tuple[str, str], float] = {}
        for job, value in values.items():
            labels = self.job(*job)
            # The jobs that share the label `other` report the worst of their values: alerts compare it with a limit,
            # and a sum of ages has no meaning.
            labelled[labels] = max(value, labelled.get(labels, 0.0))
        return _gauge(name, meaning, ["namespace", "job_id"], labelled.items())
