"""What doctor saw of dbt Cloud, as a scenario of the simulator, without anything that names the account or its people.

Names, ids, hosts, texts, branches and arguments of commands are left out or replaced by numbers. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from dbtrun.cli.dbtcloud import Kind, Reply
from dbtrun.cli.doctor.dbt_checks import LAG, SLOW_SECONDS
from dbtrun.cli.doctor.dbt_facts import DbtFacts, job_of, rows_of
from dbtrun.cli.doctor.finding import Finding

MAX_JOBS: Final = 50
MAX_OUTCOMES: Final = 20
OUTCOMES: Final = {10: "success", 20: "error", 30: "cancelled"}
VERBS: Final = frozenset({
    "build", "clone", "compile", "debug", "deps", "docs", "freshness", "generate", "init", "lint", "list", "ls",
    "parse", "retry", "run", "run-operation", "seed", "show", "snapshot", "source", "test",
})  # fmt: skip
"""Words of dbt's commands; every other word of a command may be somebody's name."""
KINDS: Final = ("get-account", "get-job", "list-jobs", "list-runs", "start")
"""The simulator's names for the requests."""
REFUSALS: Final = (Kind.REFUSED_TOKEN, Kind.FORBIDDEN, Kind.NOT_FOUND, Kind.REJECTED)


def scenario(facts: DbtFacts, findings: Sequence[Finding]) -> dict[str, Any]:
    """The scenario: jobs that take as long and end as those of the account, and the faults that were found."""
    rows = (
        [*rows_of(facts.runs), *rows_of(facts.of_job)] if facts.runs and facts.of_job else rows_of(facts.runs or EMPTY)
    )
    by_id = {row["id"]: row for row in sorted(rows, key=lambda row: int(row["id"]))}
    listed = facts.jobs.data if facts.jobs is not None and isinstance(facts.jobs.data, list) else []
    one = [facts.job.data] if facts.job is not None and isinstance(facts.job.data, dict) else []
    seen = {job["id"]: job for job in (*one, *listed) if isinstance(job, dict) and isinstance(job.get("id"), int)}
    ids = list(dict.fromkeys([*seen, *(job for row in by_id.values() if (job := job_of(row)))]))[:MAX_JOBS]
    runs = {job: [row for row in by_id.values() if job_of(row) == job] for job in ids}
    jobs = [_job(index, seen.get(job, {}), runs[job]) for index, job in enumerate(ids, 1)]
    return {"jobs": jobs, "faults": list(_faults(facts, findings))}


EMPTY: Final = Reply(kind=Kind.ANSWERED)


def _job(index: int, job: Mapping[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    given = job.get("execute_steps")
    texts = [step for step in given if isinstance(step, str)] if isinstance(given, list) else []
    commands = [[word for word in text.split()[1:] if word in VERBS][:2] or ["build"] for text in texts]
    steps = [" ".join(["dbt", *words]) for words in commands]
    codes = [row["status"] for row in rows if isinstance(row.get("status"), int)]
    outcomes = [OUTCOMES[code] for code in codes if code in OUTCOMES][-MAX_OUTCOMES:]
    made: dict[str, Any] = {
        "name": f"job {index}",
        "steps": steps or ["dbt build"],
        "outcomes": outcomes or ["success"],
    }
    for field, start, end in (("queue", "created_at", "started_at"), ("run", "started_at", "finished_at")):
        spans = [span for row in rows if (span := _seconds(row.get(start), row.get(end))) is not None]
        if spans:
            made[field] = [min(spans), max(spans)]
    return made | {"parallel": job.get("job_type") == "ci", "generate_docs": bool(job.get("generate_docs"))}


def _seconds(start: object, end: object) -> float | None:
    if not (isinstance(start, str) and isinstance(end, str)):
        return None
    try:
        return round(max((datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds(), 0.0), 1)
    except (TypeError, ValueError):
        return None


def _faults(facts: DbtFacts, findings: Sequence[Finding]) -> Iterator[dict[str, Any]]:
    """What was answered instead of a success, the filters that were ignored, and the delays."""
    start = facts.started.reply if facts.started is not None else None
    lists = facts.runs if facts.runs is None or not facts.runs.good else facts.by_ids
    replies = (facts.account, facts.job, facts.jobs, lists, start)
    for kind, reply in zip(KINDS, replies, strict=True):
        if reply is not None and not reply.good and (effect := _effect(reply)):
            yield {"kinds": [kind], "effect": effect}
    for finding in findings:
        if finding.check == "filters" and finding.message.startswith(IGNORES):
            filters = finding.message.removeprefix(IGNORES).rstrip(".").split(", ")
            yield {"kinds": ["list-runs"], "effect": {"type": "ignore-filters", "filters": filters}}
    if facts.account.good and facts.account.seconds > SLOW_SECONDS:
        yield {"effect": {"type": "latency", "seconds": round(facts.account.seconds, 1)}}
    if facts.started is not None and facts.started.run_id is not None:
        lag = facts.started.lag if facts.started.lag is not None else LAG
        if lag >= 1:
            yield {"kinds": ["list-runs"], "effect": {"type": "list-lag", "seconds": round(lag, 1)}}


# The beginning of that finding's message in `dbt_checks`.
IGNORES: Final = "dbt Cloud ignores the filters "


def _effect(reply: Reply) -> dict[str, Any] | None:
    if reply.kind in REFUSALS:
        return {"type": "reply", "status": reply.status, "body": "enveloped", "message": "Recorded."}
    effects: dict[Kind, dict[str, Any]] = {
        Kind.NO_ANSWER: {"type": "hang"},
        Kind.CUT_OFF: {"type": "drop"},
        Kind.TOO_LARGE: {"type": "huge"},
        # Not the real target, which may name the account.
        Kind.REDIRECTED: {"type": "redirect", "location": "https://example.com/"},
        Kind.RATE_LIMITED: {"type": "rate-limit"},
        Kind.SERVER_ERROR: {"type": "reply", "status": reply.status, "body": "html"},
        Kind.NOT_DBT_CLOUD: {"type": "reply", "status": max(reply.status, 200), "body": "html"},
    }
    return effects.get(reply.kind)
