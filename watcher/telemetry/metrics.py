"""What is counted. No label ever holds the name or uid of a run: their number has no bound."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


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
