# ruff: noqa: INP001 - deploy is a folder of manifests, not a package
"""The two Grafana dashboards, as data: what is drawn from which query. `python -m deploy.render` writes the JSON."""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
WIDTH: Final = 24
"""Columns of Grafana's grid."""


class Panel(NamedTuple):
    """One panel; `queries` are pairs of a PromQL expression and the legend of its series."""

    title: str
    meaning: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    stacked: bool = False


class Row(NamedTuple):
    """A heading and the panels below it."""

    title: str
    panels: tuple[Panel, ...]


IN: Final = 'namespace=~"$namespace"'
LIVE: Final = 'phase=~"Queued|Running|Cancelling"'
NOT_ENDED: Final = 'phase!~"Succeeded|Failed|Cancelled|TimedOut|Error"'
ENDED_BADLY: Final = 'phase=~"Failed|TimedOut|Error"'


def _quantile(share: float, histogram: str, over: str = "$__rate_interval", by: str = "", labels: str = "") -> str:
    groups = ", ".join(filter(None, (by, "le")))
    return f"histogram_quantile({share}, sum by ({groups}) (rate({histogram}_bucket{labels}[{over}])))"


OPERATOR: Final = (
    Row(
        "Is it working?",
        (
            Panel("Watchers that act", "0: nothing is started.", (("sum(dbtrun_leader)", ""),), kind="stat", width=4),
            Panel(
                "Watch broken",
                "1: DbtRuns cannot be listed.",
                (("max(dbtrun_watch_broken)", ""),),
                kind="stat",
                width=4,
            ),
            Panel(
                "Unreachable DbtRuns",
                "DbtRuns whose condition Reachable is False.",
                (("sum(dbtrun_unreachable_objects) or vector(0)", ""),),
                kind="stat",
                width=4,
            ),
            Panel(
                "Live runs", "", ((f"sum(dbtrun_objects_by_phase{{{LIVE}}}) or vector(0)", ""),), kind="stat", width=4
            ),
            Panel("Reconciles failing", "", (("sum(dbtrun_reconciles_failing)", ""),), kind="stat", width=4),
            Panel("Release", "", (("dbtrun_build_info", "{{version}}"),), kind="stat", width=4),
        ),
    ),
    Row(
        "DbtRuns",
        (
            Panel(
                "By phase",
                "DbtRuns that have not ended.",
                (
                    (
                        f"sum by (phase) (dbtrun_objects_by_phase{{{IN}, {NOT_ENDED}}})",
                        "{{phase}}",
                    ),
                ),
                stacked=True,
            ),
            Panel(
                "Unreachable, by reason",
                "The reasons are in the reference; docs/monitoring.md says what to do.",
                ((f"sum by (namespace, reason) (dbtrun_unreachable_objects{{{IN}}})", "{{namespace}} {{reason}}"),),
            ),
            Panel(
                "Oldest in its phase",
                "For how long a DbtRun has been in its phase for the same reason.",
                ((f"max by (phase, reason) (dbtrun_oldest_in_phase_seconds{{{IN}}})", "{{phase}} {{reason}}"),),
                unit="s",
            ),
            Panel(
                "Delay of an end (p50, p99)",
                "From the end in dbt Cloud to the final status.",
                tuple((_quantile(share, "dbtrun_end_lag_seconds"), f"p{share * 100:.0f}") for share in (0.5, 0.99)),
                unit="s",
            ),
            Panel(
                "Waiting for a run slot",
                "Of connections with max-concurrent-runs.",
                (
                    (f"sum by (namespace) (dbtrun_run_slots_waiting{{{IN}}})", "{{namespace}} waiting"),
                    (f"sum by (namespace) (dbtrun_run_slots_used{{{IN}}})", "{{namespace}} used"),
                    ('sum(dbtrun_run_slots{state="limit"})', "limit"),
                ),
            ),
            Panel(
                "Waiting to be started",
                "DbtRuns whose start, or the search before it, waits for its turn.",
                ((f"sum by (namespace) (dbtrun_starts_waiting{{{IN}}})", "{{namespace}}"),),
            ),
        ),
    ),
    Row(
        "dbt Cloud",
        (
            Panel(
                "Requests by kind",
                "",
                (
                    (
                        "sum by (kind) (rate(dbtrun_dbt_cloud_request_duration_seconds_count[$__rate_interval]))",
                        "{{kind}}",
                    ),
                ),
                unit="reqps",
                stacked=True,
            ),
            Panel(
                "Requests that failed, by outcome",
                "",
                (
                    (
                        "sum by (kind, outcome) (rate(dbtrun_dbt_cloud_request_duration_seconds_count"
                        '{outcome!="success"}[$__rate_interval]))',
                        "{{kind}} {{outcome}}",
                    ),
                ),
                unit="reqps",
            ),
            Panel(
                "Latency (p95) by kind",
                "",
                (
                    (
                        _quantile(0.95, "dbtrun_dbt_cloud_request_duration_seconds", by="kind"),
                        "{{kind}}",
                    ),
                ),
                unit="s",
            ),
            Panel(
                "Budget used, by account",
                "Requests as a share of what the watcher may send in a minute.",
                (
                    (
                        "sum by (account) (rate(dbtrun_account_requests_total[$__rate_interval])) * 60 "
                        "/ max by (account) (dbtrun_account_requests_per_minute_limit)",
                        "{{account}}",
                    ),
                ),
                unit="percentunit",
            ),
            Panel(
                "Requests that wait for the budget",
                "",
                (
                    ("sum by (account) (dbtrun_account_requests_waiting)", "{{account}} waiting"),
                    ("sum by (account) (dbtrun_account_requests_left)", "{{account}} left"),
                ),
            ),
            Panel(
                "Paused after 429",
                "Seconds until the next request.",
                (("max by (account) (dbtrun_account_paused_seconds)", "{{account}}"),),
                unit="s",
            ),
        ),
    ),
    Row(
        "The process",
        (
            Panel(
                "Memory",
                "",
                (("process_resident_memory_bytes and on (job, instance) dbtrun_build_info", "{{instance}}"),),
                unit="bytes",
                width=6,
            ),
            Panel(
                "CPU",
                "",
                (
                    (
                        "rate(process_cpu_seconds_total[$__rate_interval]) and on (job, instance) dbtrun_build_info",
                        "{{instance}}",
                    ),
                ),
                width=6,
            ),
            Panel(
                "Lag of the event loop (p99)",
                "",
                (
                    (
                        _quantile(0.99, "dbtrun_loop_lag_seconds"),
                        "p99",
                    ),
                ),
                unit="s",
                width=6,
            ),
            Panel(
                "Restarts",
                "Starts of the process, and watches that ended, within an hour.",
                (
                    (
                        "changes(process_start_time_seconds[1h]) and on (job, instance) dbtrun_build_info",
                        "{{instance}}",
                    ),
                    ("sum(increase(dbtrun_watch_restarts_total[1h]))", "watches"),
                ),
                width=6,
            ),
        ),
    ),
)

DATA_TEAM: Final = (
    Row(
        "Now",
        (
            Panel(
                "Running",
                "",
                ((f'sum(dbtrun_objects_by_phase{{{IN}, phase="Running"}}) or vector(0)', ""),),
                kind="stat",
                width=4,
            ),
            Panel(
                "Queued in dbt Cloud",
                "",
                ((f'sum(dbtrun_objects_by_phase{{{IN}, phase="Queued"}}) or vector(0)', ""),),
                kind="stat",
                width=4,
            ),
            Panel(
                "Waiting",
                "Not started yet: for a slot, a retry, a person or dbt Cloud.",
                ((f'sum(dbtrun_objects_by_phase{{{IN}, phase=~"Pending|Submitting"}}) or vector(0)', ""),),
                kind="stat",
                width=4,
            ),
            Panel(
                "Jobs that are late",
                "A run takes more than twice as long as usual.",
                (
                    (
                        f"count(max by (namespace, job_id) (dbtrun_job_running_seconds{{{IN}}}) > "
                        f"2 * max by (namespace, job_id) (dbtrun_job_expected_seconds{{{IN}}})) or vector(0)",
                        "",
                    ),
                ),
                kind="stat",
                width=4,
            ),
            Panel(
                "Jobs that fail",
                "The last DbtRun has failed.",
                ((f"count(max by (namespace, job_id) (dbtrun_job_failures_in_a_row{{{IN}}}) > 0) or vector(0)", ""),),
                kind="stat",
                width=4,
            ),
            Panel(
                "Success, last 24 hours",
                "Of the DbtRuns that succeeded or failed.",
                (
                    (
                        f'sum(increase(dbtrun_job_finished_total{{{IN}, phase="Succeeded"}}[24h])) '
                        f'/ (sum(increase(dbtrun_job_finished_total{{{IN}, phase!="Cancelled"}}[24h])) > 0)',
                        "",
                    ),
                ),
                unit="percentunit",
                kind="stat",
                width=4,
            ),
        ),
    ),
    Row(
        "Jobs",
        (
            Panel(
                "Running for",
                "The oldest run of each job.",
                ((f"max by (namespace, job_id) (dbtrun_job_running_seconds{{{IN}}})", "{{namespace}} {{job_id}}"),),
                unit="s",
                width=12,
            ),
            Panel(
                "Usual duration",
                "The median of the last runs, of the jobs that run now.",
                ((f"max by (namespace, job_id) (dbtrun_job_expected_seconds{{{IN}}})", "{{namespace}} {{job_id}}"),),
                unit="s",
                width=12,
            ),
            Panel(
                "Duration (p90)",
                "Of the runs that succeeded within six hours.",
                (
                    (
                        _quantile(0.9, "dbtrun_job_duration_seconds", "6h", "namespace, job_id", f"{{{IN}}}"),
                        "{{namespace}} {{job_id}}",
                    ),
                ),
                unit="s",
                width=12,
            ),
            Panel(
                "Failures in a row",
                "DbtRuns of the job that have failed since its last success.",
                (
                    (
                        f"max by (namespace, job_id) (dbtrun_job_failures_in_a_row{{{IN}}}) > 0",
                        "{{namespace}} {{job_id}}",
                    ),
                ),
                width=12,
            ),
            Panel(
                "Ends by phase",
                "",
                ((f"sum by (phase) (increase(dbtrun_job_finished_total{{{IN}}}[1h]))", "{{phase}}"),),
                stacked=True,
                width=12,
            ),
            Panel(
                "Failures by job",
                "",
                (
                    (
                        "sum by (namespace, job_id) "
                        f"(increase(dbtrun_job_finished_total{{{IN}, {ENDED_BADLY}}}[1h])) > 0",
                        "{{namespace}} {{job_id}}",
                    ),
                ),
                width=12,
            ),
        ),
    ),
    Row(
        "What runs wait for",
        (
            Panel(
                "Waiting, by reason",
                "",
                (
                    (
                        f'sum by (reason) (dbtrun_objects_by_phase{{{IN}, phase=~"Pending|Submitting|Queued"}})',
                        "{{reason}}",
                    ),
                ),
                stacked=True,
            ),
            Panel(
                "Longest wait, by reason",
                "",
                (
                    (
                        f'max by (reason) (dbtrun_oldest_in_phase_seconds{{{IN}, phase=~"Pending|Submitting|Queued"}})',
                        "{{reason}}",
                    ),
                ),
                unit="s",
            ),
            Panel(
                "dbt Cloud not reachable, by reason",
                "",
                ((f"sum by (reason) (dbtrun_unreachable_objects{{{IN}}})", "{{reason}}"),),
            ),
        ),
    ),
)

DASHBOARDS: Final = {
    "operator": ("dbtrun-operator", "DbtRun: the watcher", OPERATOR),
    "data-team": ("dbtrun-data-team", "DbtRun: jobs and runs", DATA_TEAM),
}
"""File name → uid, title and rows."""


def dashboard(uid: str, title: str, rows: tuple[Row, ...]) -> dict[str, Any]:
    """A dashboard in Grafana's JSON."""
    panels: list[dict[str, Any]] = []
    bottom = 0
    for row in rows:
        panels.append(_heading(row.title, len(panels) + 1, bottom))
        bottom += 1
        left, height = 0, 0
        for panel in row.panels:
            if left + panel.width > WIDTH:
                left, bottom = 0, bottom + height
            height = 4 if panel.kind == "stat" else 8
            place = {"x": left, "y": bottom, "w": panel.width, "h": height}
            panels.append(_drawn(panel, len(panels) + 1, place))
            left += panel.width
        bottom += height
    return {
        "uid": uid,
        "title": title,
        "tags": ["dbtrun"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "1m",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_datasource(), _namespaces()]},
        "panels": panels,
    }


def rendered() -> dict[str, str]:
    """The JSON of each dashboard, by its name."""
    return {name: json.dumps(dashboard(*parts), indent=2) + "\n" for name, parts in DASHBOARDS.items()}


def _heading(title: str, number: int, top: int) -> dict[str, Any]:
    place = {"x": 0, "y": top, "w": WIDTH, "h": 1}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}


def _drawn(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    custom = {"fillOpacity": 20, "stacking": {"mode": "normal" if panel.stacked else "none"}}
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.meaning,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": custom if panel.kind == "timeseries" else {}},
            "overrides": [],
        },
        "options": {"reduceOptions": {"calcs": ["lastNotNull"]}, "textMode": "name" if panel.queries[0][1] else "value"}
        if panel.kind == "stat"
        else {},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": DATASOURCE, "expr": expression, "legendFormat": legend}
            for index, (expression, legend) in enumerate(panel.queries)
        ],
    }


def _datasource() -> dict[str, Any]:
    return {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}


def _namespaces() -> dict[str, Any]:
    query = "label_values(dbtrun_objects_by_phase, namespace)"
    return {
        "name": "namespace",
        "label": "Namespace",
        "type": "query",
        "datasource": DATASOURCE,
        "query": query,
        "definition": query,
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }
