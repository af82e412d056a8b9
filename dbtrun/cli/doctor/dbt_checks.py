"""What dbt Cloud's answers mean for a first run. Pure."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

from dbtrun.cli.dbtcloud import Kind, Reply
from dbtrun.cli.doctor.dbt_facts import LIVE, LOOKS, MAX_CAUSE, REFUSALS, DbtFacts, Started, cause_of, job_of, rows_of
from dbtrun.cli.doctor.finding import Finding, bad, good, unknown, warning
from dbtrun.cli.words import duration
from dbtrun.text import one_line

SLOW_SECONDS: Final = 5.0
KNOWN: Final = (1, 2, 3, 10, 20, 30)
"""dbt Cloud's status codes of runs."""
QUIET_PERIOD: Final = 120.0
"""Seconds after which the watcher takes a start for lost, by default (`quietPeriodSeconds`)."""
LAG: Final = 60.0
"""Seconds of lag of the lists from which the quiet period has little to spare."""
BEHIND: Final = 600.0
"""Seconds by which dbt Cloud's clock may be behind the API server's."""
SKEW: Final = 60.0
"""Seconds from which a difference is reported."""
MAX_CODES: Final = 200
"""Characters of unknown status codes that are shown."""


class Words(NamedTuple):
    """What a reply that is no success says, and the way out."""

    message: str
    remedy: str


FAULTS: Final[Mapping[Kind, Words]] = {
    Kind.NO_SUCH_HOST: Words(
        "the host does not exist, or its name cannot be looked up here",
        "Compare the key host with the access URL of the account (Account settings in dbt Cloud).",
    ),
    Kind.NOT_CONNECTED: Words(
        "no connection to the host: it is refused or not answered",
        "Check the key host and its port, firewalls, and the proxy (HTTPS_PROXY; in the chart: proxy.https).",
    ),
    Kind.BAD_CERTIFICATE: Words(
        "the certificate of the host is not trusted",
        "Put the CA into the key ca.crt of the Secret, or into caBundle of the chart if a proxy intercepts TLS.",
    ),
    Kind.NO_ANSWER: Words(
        "no complete answer within 15 seconds",
        "Check the network and dbt Cloud's status page. The watcher tries again with backoff.",
    ),
    Kind.CUT_OFF: Words(
        "the connection was closed before the answer was complete",
        "Check what is between you and dbt Cloud (proxy, firewall). The watcher tries again with backoff.",
    ),
    Kind.TOO_LARGE: Words(
        "the answer is larger than 8 MB, so it is not read",
        "Check that the host is dbt Cloud's and no proxy answers in its place.",
    ),
    Kind.REDIRECTED: Words(
        "the host redirects elsewhere, and the token is never sent to another host",
        "Put the host to which it redirects into the key host, if it is dbt Cloud's.",
    ),
    Kind.REFUSED_TOKEN: Words(
        "the token is refused (401)",
        "Put a valid service token of this account into the key token. An account without API access looks the same.",
    ),
    Kind.FORBIDDEN: Words(
        "the token may not do this (403)",
        "Give the token the permission set Job Runner on the project of the job.",
    ),
    Kind.NOT_FOUND: Words(
        "dbt Cloud has no such object, or hides it from the token (404)",
        "Compare the id with dbt Cloud, and the projects of the token with that of the job.",
    ),
    Kind.REJECTED: Words("dbt Cloud refuses the request", "See what dbt Cloud says, and correct it there."),
    Kind.RATE_LIMITED: Words(
        "the request limit of the account is used up (429)",
        "Find what else uses the limit, or lower settings.requestsPerMinute. The watcher pauses by itself.",
    ),
    Kind.SERVER_ERROR: Words(
        "dbt Cloud answers with a server error",
        "See dbt Cloud's status page. The watcher tries again with backoff.",
    ),
    Kind.NOT_DBT_CLOUD: Words(
        "the answer is not dbt Cloud's JSON",
        "Check that the host is dbt Cloud's, and that no proxy or login page answers in its place.",
    ),
    Kind.WITHOUT_DATA: Words(
        "the answer reports success, but does not contain what was asked for",
        "Check that no proxy changes dbt Cloud's answers. If none does, ask dbt Cloud's support.",
    ),
}


def findings(facts: DbtFacts, api_server_offset: float | None) -> Iterator[Finding]:
    """The problems, and what is as it should be.

    Args:
        facts: dbt Cloud's replies.
        api_server_offset: seconds by which the API server's clock is ahead of this machine's; None: not known.
    """
    if facts.account.kind is Kind.NOT_FOUND:
        yield failed("account", "The account", facts.account, "Compare the key account-id with dbt Cloud's URLs.")
        return
    if not facts.account.good:
        yield failed("account", "dbt Cloud cannot be used", facts.account)
        return
    yield good("account", "dbt Cloud accepts the token for this account.")
    if facts.slowest > SLOW_SECONDS:
        yield warning(
            "latency",
            f"dbt Cloud took {facts.slowest:.0f} s for an answer.",
            "Check the network. Above settings.requestSeconds (30 s), the watcher gives up a request.",
        )
    yield clock(facts.account.offset, api_server_offset)
    for check in (_job, _selected, _list, _filters, _start):
        yield from check(facts)
    if facts.started is not None and facts.started.run_id is not None:
        for check_run in (_lag, _cause_length, _read, _cancelled):
            yield from check_run(facts.started)


def failed(check: str, what: str, reply: Reply, remedy: str = "") -> Finding:
    """A reply that is no success."""
    words = FAULTS[reply.kind]
    said = f": {reply.words}" if reply.words and reply.kind is not Kind.NOT_DBT_CLOUD else ""
    status = f" (HTTP {reply.status})" if reply.kind in (Kind.SERVER_ERROR, Kind.NOT_DBT_CLOUD) else ""
    return bad(check, f"{what}: {words.message}{status}{said}.".replace("..", "."), remedy or words.remedy)


def clock(dbt: float | None, api_server: float | None) -> Finding:
    """Whether dbt Cloud's clock is at most ten minutes behind that of the API server."""
    if dbt is None or api_server is None:
        return unknown("clock", "dbt Cloud's clock could not be compared with that of the API server.")
    skew = dbt - api_server
    how = f"{duration(abs(skew))} {'ahead of' if skew > 0 else 'behind'} the API server's"
    # Only this direction is a hazard: a search goes back from the claim, and dbt Cloud dates the run earlier than that.
    if skew < -BEHIND:
        return bad(
            "clock",
            f"dbt Cloud's clock is {how}: the watcher could overlook a run that it started, and start another.",
            "Correct the clock of the API server's machines: dbt Cloud's is kept by NTP.",
        )
    if abs(skew) > SKEW:
        return warning("clock", f"dbt Cloud's clock is {how}.", "Check the clocks: ten minutes behind is the limit.")
    return good("clock", "dbt Cloud's clock and that of the API server agree.")


def _job(facts: DbtFacts) -> Iterator[Finding]:
    if facts.job is not None:
        if facts.job.good:
            yield good("job", f"The token sees the job {facts.job_id} ({facts.job.data.get('name')}).")
        else:
            yield failed("job", f"The job {facts.job_id}", facts.job)
    elif facts.jobs is not None:
        if not facts.jobs.good:
            yield failed("job", "The list of jobs", facts.jobs)
        elif not facts.jobs.data:
            yield bad(
                "job",
                "The token sees no job.",
                "Give the token the permission set Job Runner on the project of your job, or create a job in dbt "
                "Cloud.",
            )
        else:
            yield good("job", f"The token sees {len(facts.jobs.data)} jobs.")


def _selected(facts: DbtFacts) -> Iterator[Finding]:
    for job_id, reply in facts.selected:
        if reply.kind in (Kind.NOT_FOUND, Kind.FORBIDDEN):
            yield bad(
                "mirrored jobs",
                f"The token does not see the job {job_id}, which a mirror selects, so its runs do not appear.",
                "Compare the id with dbt Cloud, and the projects of the token with that of the job.",
            )
        elif not reply.good:
            yield failed("mirrored jobs", f"The job {job_id}, which a mirror selects", reply)
    if facts.selected and all(reply.good for _, reply in facts.selected):
        yield good("mirrored jobs", "The token sees the jobs that mirrors select.")


def _list(facts: DbtFacts) -> Iterator[Finding]:
    if facts.runs is None:
        return
    if not facts.runs.good:
        yield failed("list", "The list of runs", facts.runs)
        return
    rows = rows_of(facts.runs)
    if not rows:
        yield unknown(
            "list order", "The account has no runs yet, so its lists could not be checked.", "Use --start JOB."
        )
        return
    yield _order(facts)
    if any(cause_of(row) is None for row in rows):
        yield bad(
            "causes",
            "dbt Cloud lists runs without their causes, by which the watcher recognizes its runs.",
            "Ask dbt Cloud's support about include_related. Until then a start whose reply is lost stays undecided.",
        )
    else:
        yield good("causes", "Lists of runs have the causes, by which the watcher recognizes its runs.")
    strange = {str(row.get("status")) for row in rows if row.get("status") not in KNOWN}
    if strange:
        codes = one_line(", ".join(sorted(strange)), MAX_CODES)
        yield warning(
            "status codes",
            f"Runs have the status {codes}, which this release does not know.",
            "Upgrade DbtRun. Until then such a run counts as running while dbt Cloud says that it is in progress.",
        )


def _order(facts: DbtFacts) -> Finding:
    for reply in (facts.runs, facts.of_job):
        ids = [row["id"] for row in rows_of(reply)] if reply is not None else []
        if any(later >= earlier for earlier, later in itertools.pairwise(ids)):
            return bad(
                "list order",
                "dbt Cloud ignores order_by: a list of runs is not newest first.",
                "Ask dbt Cloud's support. Until then a start whose reply is lost stays undecided.",
            )
    return good("list order", "Lists of runs are newest first, as asked.")


def _filters(facts: DbtFacts) -> Iterator[Finding]:
    since = facts.since or datetime.now(UTC)
    tests: tuple[tuple[str, Reply | None, Callable[[dict[str, Any]], bool]], ...] = (
        ("pk__in", facts.by_ids, lambda row: row["id"] in facts.asked_ids),
        ("status__in", facts.live, lambda row: row.get("status") in LIVE),
        ("finished_at__range", facts.finished, lambda row: _finished(row, since)),
        ("job_definition_id", facts.of_job, lambda row: job_of(row) == facts.listed_job),
    )
    ignored = []
    for name, reply, belongs in tests:
        if reply is None:
            continue
        if not reply.good:
            yield failed(f"filter {name}", f"The list of runs with the filter {name}", reply)
        elif not _applied(name, reply, belongs):
            ignored.append(name)
    if ignored:
        yield bad(
            "filters",
            # `record` reads the names out of this sentence.
            f"dbt Cloud ignores the filters {', '.join(ignored)}.",
            "Ask dbt Cloud's support. The watcher notices this and continues, with more requests.",
        )
    elif facts.live is not None:
        yield good("filters", "dbt Cloud applies the filters that the watcher uses.")


def _applied(name: str, reply: Reply, belongs: Callable[[dict[str, Any]], bool]) -> bool:
    """Whether all rows match, and the filter is echoed where the rows prove nothing."""
    rows = rows_of(reply)
    if not all(map(belongs, rows)):
        return False
    # Where every run of the account would match, rows that match prove nothing. Recorded: `extra.filters` echoes the
    # filters that were applied.
    filters = reply.extra.get("filters") if isinstance(reply.extra, dict) else None
    return not isinstance(filters, dict) or name in filters


def _finished(row: dict[str, Any], since: datetime) -> bool:
    text = row.get("finished_at")
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return False
    if moment is None:
        return False
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return moment >= since - timedelta(seconds=1)


def _start(facts: DbtFacts) -> Iterator[Finding]:
    started = facts.started
    if started is None:
        return
    reply = started.reply
    if started.run_id is None and (reply.kind in REFUSALS or reply.kind is Kind.NOT_CONNECTED):
        yield failed("start", "A run cannot be started", reply)
    elif started.run_id is None:
        yield bad(
            "start",
            f"The reply to the start does not say whether the run was started ({reply.kind}), and no list has the run.",
            "Look for its cause, dbtrun doctor, in dbt Cloud. Check what is between you and dbt Cloud.",
        )
    elif reply.good:
        yield good("start", f"A run can be started: {started.run_id}.")
    else:
        yield warning(
            "start",
            f"The reply to the start was lost or useless ({reply.kind}), but the run {started.run_id} was started.",
            "Check what is between you and dbt Cloud. The watcher finds such a run by its cause.",
        )


def _lag(started: Started) -> Iterator[Finding]:
    if started.lag is None:
        yield bad(
            "list lag",
            f"The run {started.run_id} was in no list, {sum(LOOKS):.0f} s after its start.",
            "Raise settings.quietPeriodSeconds above the lag, or a start whose reply is lost may be sent twice.",
        )
    elif started.lag > LAG / 2:
        yield warning(
            "list lag",
            f"A run was in dbt Cloud's lists {started.lag:.0f} s after its start.",
            f"Raise settings.quietPeriodSeconds ({QUIET_PERIOD:.0f} by default) to several times that.",
        )
    else:
        yield good("list lag", f"A run is in dbt Cloud's lists {started.lag:.1f} s after its start.")


def _cause_length(started: Started) -> Iterator[Finding]:
    if started.echoed is None:
        yield unknown("cause length", "The cause of the run could not be read, as no list has it.")
    elif started.echoed != started.cause:
        yield bad(
            "cause length",
            f"dbt Cloud does not return a cause of {MAX_CAUSE} characters as it was sent: {len(started.echoed)} came "
            "back.",
            "Ask dbt Cloud's support: by the cause the watcher recognizes its runs.",
        )
    else:
        yield good("cause length", f"dbt Cloud returns a cause of {MAX_CAUSE} characters unchanged.")


def _read(started: Started) -> Iterator[Finding]:
    if started.read is not None and not started.read.good:
        yield failed("read", f"The run {started.run_id} cannot be read by its id", started.read)


def _cancelled(started: Started) -> Iterator[Finding]:
    if started.cancelled is not None and not started.cancelled.good:
        yield failed("cancel", f"The run {started.run_id} cannot be cancelled", started.cancelled)
    elif not started.over:
        yield warning(
            "cancel",
            f"The run {started.run_id} was cancelled, and dbt Cloud has not confirmed its end yet.",
            "Look at the run in dbt Cloud.",
        )
    else:
        yield good("cancel", "The run was cancelled.")
