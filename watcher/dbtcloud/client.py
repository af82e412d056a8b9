"""dbt Cloud's Administrative API, as far as DbtRun needs it.

Nothing here is retried: the caller, who knows what a request is for, decides what may be repeated and when.
"""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from dbtrun.api import Job, Overrides, PullRequestId, Reason, Results
from dbtrun.api.status import RUN_RESULTS
from dbtrun.connection.secret import Connection
from dbtrun.values import keep_newest
from watcher.clock import Clock, system_clock
from watcher.dbtcloud import search, wire
from watcher.dbtcloud.batch import Batch, Findings
from watcher.dbtcloud.budget import Budget, Priority, Share
from watcher.dbtcloud.builds import Builds
from watcher.dbtcloud.channel import MAX_FILE, PAGE_SIZE, TOTAL_SECONDS, Channel
from watcher.dbtcloud.errors import DbtCloudError, JobNotFound, NotFound, Rejected, ServerFault, TooLarge, submission_of
from watcher.dbtcloud.intake import Intake
from watcher.dbtcloud.ledger import OPEN_END, ROUNDING, Begun, read_begun, read_finished
from watcher.dbtcloud.lookups import LookUps, Question
from watcher.dbtcloud.merge import MAX_FILES, File, Merge, files_of
from watcher.dbtcloud.replies import UNDECODABLE, Received
from watcher.dbtcloud.requests import Observe
from watcher.dbtcloud.slots import LiveRuns
from watcher.lifecycle.facts import Observation, RunFacts, RunState, Started, StepFacts, Submission, Undecided
from watcher.lifecycle.marker import mark_of
from watcher.mirrors.progress import Reading

MAX_PAGES: Final = 200
"""Pages read of one list: 20,000 runs."""
# Undocumented. Airflow's dbt Cloud provider cuts at the same length (`DBT_CAUSE_MAX_LENGTH`).
MAX_CAUSE: Final = 255
"""Characters of a cause that dbt Cloud accepts."""
MAX_OBJECTS: Final = 500_000
"""JSON objects in a run_results.json that is decoded; each node has about five, and costs memory."""
LIVE: Final = (RunState.QUEUED, RunState.STARTING, RunState.RUNNING)
MAX_PROJECTS: Final = 10_000
"""Jobs whose project is remembered."""
PROJECT_SECONDS: Final = 300.0
"""How long it is remembered."""

T = TypeVar("T")


class Client:
    """One connection's requests. Open until `close()`; also an async context manager.

    Args:
        intake: counts the bytes of replies; one for the whole process.
        heard: called with the HTTP status of each reply.
        observe: called with each request that has come to an end, for the metrics.

    Every method but `start` and `retry` spends the budget itself, and raises DbtCloudError. Those two never wait: the
    caller spends Priority.SUBMIT before it claims the attempt, since a claim is good for seconds only.
    """

    def __init__(
        self,
        connection: Connection,
        budget: Budget | Share | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Clock = system_clock,
        total_seconds: float = TOTAL_SECONDS,
        intake: Intake | None = None,
        heard: Callable[[int], object] = lambda _status: None,
        observe: Observe = lambda _sent: None,
    ) -> None:
        self._connection = connection
        self._budget = budget
        self._clock = clock
        self._merging = asyncio.Semaphore(1)
        self._channel = Channel(connection, budget, transport, clock, total_seconds, intake, heard, observe)
        self._look_ups = LookUps(self._channel, clock)
        self._projects: dict[int, tuple[int | None, float]] = {}

    def __repr__(self) -> str:
        return f"Client({self._connection!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def polled_at(self) -> float:
        """Monotonic seconds at which a poll's request last came to an end."""
        return self._channel.polled_at

    @property
    def answered(self) -> bool:
        """Whether dbt Cloud has answered a request with a success."""
        return self._channel.answered

    async def close(self) -> None:
        """Closes the connections; requests under way fail."""
        await self._look_ups.close()
        await self._channel.close()

    # ---- what changes something

    async def start(self, job_id: int, cause: str, overrides: Overrides) -> Submission:
        """Starts a run of a job: sent at most once, never raises DbtCloudError.

        Args:
            cause: shown in dbt Cloud and echoed; what is beyond 255 characters is cut off.
        """
        body = {"cause": cause[:MAX_CAUSE], **_body(overrides)}
        return await self._submit(f"jobs/{job_id}/run/", body, Reason.JOB_NOT_FOUND, lambda run: run.job_id == job_id)

    async def retry(self, run_id: int) -> Submission:
        """Resumes a failed run from its failure, as a new run: sent at most once, never raises DbtCloudError."""
        return await self._submit(f"runs/{run_id}/retry/", None, Reason.RUN_NOT_FOUND, lambda run: run.run_id != run_id)

    async def cancel(self, run_id: int) -> None:
        """Asks dbt Cloud to cancel a run. Safe to repeat; that it is over is known only when it is read so.

        Raises:
            DbtCloudError: it may or may not have been heard; Rejected when dbt Cloud will not cancel it.
        """
        # How dbt Cloud answers for a run that has ended is undocumented: both a success and a refusal are accepted.
        await self._channel.exchange("POST", f"runs/{run_id}/cancel/", Priority.CANCEL, _one_run)

    async def _submit(
        self, path: str, body: Mapping[str, Any] | None, not_found: Reason, expected: Callable[[RunFacts], bool]
    ) -> Submission:
        try:
            if self._budget is not None:
                self._budget.check()
            answer = await self._channel.exchange("POST", path, None, _one_run, body=body)
            run = answer.facts(self._connection.base_url)
        except DbtCloudError as error:
            return submission_of(error, self._clock(), not_found)
        # The answer decides which run is followed, and cancelled if asked for: it must be the one that was asked for.
        if run.account_id != self._connection.account_id or not expected(run):
            return Undecided(f"POST /{path} was answered with a run that is not the one asked for, {run.run_id}")
        return Started(run)

    # ---- single things

    async def check(self) -> wire.Account:
        """Reads the account: whether host, token and account number belong together."""
        return await self._channel.exchange(
            "GET", "", Priority.DETAILS, lambda received: received.data(wire.ACCOUNT).data
        )

    async def run(self, run_id: int, *, steps: bool = False) -> Observation:
        """Reads one run. `run=None` in the answer: dbt Cloud says that the token may see no such run.

        Raises:
            DbtCloudError: dbt Cloud did not answer; ServerFault also when it answers with another run.
        """
        # Only where it is needed: the logs of the steps make a reply of 2 kB one of megabytes.
        include = {"include_related": '["run_steps"]'} if steps else {}
        priority = Priority.DETAILS if steps else Priority.POLL
        base_url = self._connection.base_url

        def read(received: Received) -> Observation:
            try:
                run = _one_run(received)
            except NotFound:
                return Observation(run=None, at=received.sent, clock_offset=received.clock_offset)
            # A cache in front of dbt Cloud must not make one run look like another.
            if run.id != run_id:
                raise ServerFault(f"{received.request} answered with another run, {run.id}")
            facts = run.facts(base_url, steps=steps, secret=received.token.reveal())
            return Observation(run=facts, at=received.sent, clock_offset=received.clock_offset)

        return await self._channel.exchange("GET", f"runs/{run_id}/", priority, read, include)

    async def cause(self, run_id: int) -> str | None:
        """Reads why a run was started. None: dbt Cloud names no cause, or knows no such run."""
        include = {"include_related": '["trigger"]'}
        try:
            run = await self._channel.exchange("GET", f"runs/{run_id}/", Priority.CANCEL, _one_run, include)
        except NotFound:
            return None
        return run.cause or None

    async def project_of_job(self, job_id: int) -> int | None:
        """The project of a job, remembered for a while. None: dbt Cloud names none.

        Raises:
            JobNotFound: there is no such job, or the token may not see it.
        """
        now = self._clock().mono
        kept = self._projects.get(job_id)
        if kept is not None and now < kept[1]:
            return kept[0]
        try:
            job = await self._channel.exchange("GET", f"jobs/{job_id}/", Priority.SUBMIT, _one_named)
        except NotFound as error:
            raise JobNotFound(error.message, final=True) from None
        project = job.project_id if job.id == job_id else None
        keep_newest(self._projects, job_id, (project, now + PROJECT_SECONDS), MAX_PROJECTS)
        return project

    async def project_of_run(self, run_id: int) -> int | None:
        """The project of a run. None: dbt Cloud names none.

        Raises:
            NotFound: there is no such run, or the token may not see it.
        """
        run = await self._channel.exchange("GET", f"runs/{run_id}/", Priority.SUBMIT, _one_run)
        return run.project_id if run.id == run_id else None

    async def results(self, run_id: int, steps: Sequence[StepFacts] = ()) -> Results | None:
        """Reads the outcome by node of a run, one request for each dbt step. None: none can be read.

        Args:
            steps: of the run; if they are not known, the last one is read.
        """
        files = files_of(steps)
        merge = Merge(self._connection.token.reveal())

        def count(body: bytes | bytearray) -> bool:
            report = _decoded(body, wire.REPORT)
            return report is not None and merge.add(report)

        async with self._merging:
            for file in files[:MAX_FILES]:
                try:
                    counted = await self._file(run_id, file.path, file.step, MAX_FILE, count)
                except TooLarge:
                    counted = False
                if counted is False:  # None: the step has left no results, so nothing is lacking
                    merge.lack(file.step)
        for file in files[MAX_FILES:]:
            merge.lack(file.step)
        return merge.results()

    async def builds(self, run_id: int, limit: int, *, early: bool) -> bytes | None:
        """What each step of an ended run built, as a file: see `Builds`. None: no step has left results.

        Args:
            limit: the bytes that the file may have.
            early: dbt Cloud may still be uploading: None also if a step that succeeded has left no results.

        Raises:
            TooLarge: the file would have more than `limit` bytes.
            DbtCloudError: the results of a step cannot be read.
        """
        run = (await self.run(run_id, steps=True)).run
        steps = (run.steps if run is not None else None) or ()
        succeeded = {step.index for step in steps if step.state == RunState.SUCCESS}
        files = [file for file in files_of(steps) if file.path == RUN_RESULTS]
        if len(files) > MAX_FILES:
            raise ServerFault(f"The run has results of {len(files)} steps; those of {MAX_FILES} are read at most.")
        builds, found = Builds(limit), False
        async with self._merging:
            for file in files:
                left = await self._file(run_id, file.path, file.step, MAX_FILE, functools.partial(_add, builds, file))
                if left is None and early and file.step in succeeded:
                    return None
                found = found or left is not None
        return builds.file() if found or not files else None

    async def artifact(self, run_id: int, path: str, limit: int = MAX_FILE, *, step: int | None = None) -> bytes | None:
        """Reads a file below the target directory, as a step left it (1-based; None: the last). None: there is none.

        Raises:
            TooLarge: it has more than `limit` bytes.
            DbtCloudError: it may be there.
        """
        return await self._file(run_id, path, step, limit, bytes)

    async def _file(
        self, run_id: int, path: str, step: int | None, limit: int, parse: Callable[[bytes | bytearray], T]
    ) -> T | None:
        def read(received: Received) -> T | None:
            # Observed: 404 until the files are uploaded, which can be seconds after the end of the run.
            if received.status == 404:
                return None
            if received.status != 200:
                raise received.error()
            return parse(received.body)

        # Without `step` it is the file of the last step (documented), which may be that of `dbt docs generate`.
        params = {} if step is None else {"step": str(step)}
        return await self._channel.file(f"runs/{run_id}/artifacts/{quote(path)}", params, limit, read)

    # ---- lists for the poller

    async def runs(self, ids: Sequence[int]) -> Batch:
        """Reads up to 100 runs by id in one request."""
        # `pk__in` is in the OpenAPI description, but no public client uses it for runs. If it is ignored, the reply is
        # the first page of all runs, which looks like an answer, so the two checks below are needed.
        params = {"pk__in": _array(ids), "limit": str(PAGE_SIZE), "order_by": "-id"}
        try:
            page = await self._channel.page("runs/", params, wire.RUNS, Priority.POLL)
        except Rejected:
            return Batch(supported=False)
        asked, told = set(ids), {run.id for run in page.items}
        believable = told <= asked and ("pk__in" in page.filters or told == asked)
        findings = Findings(self._connection.base_url)
        findings.add(page, lambda run: run.id in asked)
        return findings.batch(supported=believable, missing=tuple(sorted(asked - told)) if believable else ())

    async def live_runs(self) -> Batch:
        """Reads all runs of the account that are not over."""
        # A run that ends while the pages are read moves the rest: one that is skipped is confirmed alone.
        params = {"status__in": _array(LIVE), "order_by": "id"}
        return await self._filtered(params, lambda run: run.status in LIVE, MAX_PAGES)

    async def finished_since(self, instant: datetime, max_pages: int = MAX_PAGES) -> Batch:
        """Reads the runs of the account that finished since `instant` (dbt Cloud's clock), oldest first."""
        # As Dagster's client sends it: the OpenAPI description does not say how a range is written.
        ends = json.dumps([instant.isoformat(), (instant + OPEN_END).isoformat()])

        def belongs(run: wire.Run) -> bool:
            finished = wire.instant(run.finished_at)
            return finished is not None and finished >= instant - ROUNDING

        return await self._filtered({"finished_at__range": ends, "order_by": "finished_at"}, belongs, max_pages)

    async def _filtered(self, params: Mapping[str, str], belongs: Callable[[wire.Run], bool], max_pages: int) -> Batch:
        """All pages of a filtered list; it ends at the first run that shows that the filter is ignored."""
        findings = Findings(self._connection.base_url)
        try:
            async for page in self._channel.pages("runs/", params, wire.RUNS, Priority.POLL):
                findings.add(page, belongs)
                if not all(map(belongs, page.items)):
                    return findings.batch(supported=False)
                if findings.pages >= max_pages:
                    return findings.batch(complete=not page.more)
        except Rejected:
            return findings.batch(supported=False)
        return findings.batch()

    async def count_live(self, newest: int) -> LiveRuns | None:
        """Counts the runs of the account that are not over, and lists the newest of them with their markers.

        None: dbt Cloud ignores the filter, or gives no total.
        """
        params = {
            "status__in": _array(LIVE),
            "order_by": "-id",
            "include_related": '["trigger"]',
            "limit": str(newest),
            "offset": "0",
        }
        try:
            page = await self._channel.page("runs/", params, wire.RUNS, Priority.SUBMIT)
        except Rejected:
            return None
        # If the filter is ignored, the total counts the runs of years, and the newest ones may be live all the same:
        # only the echo shows it.
        believable = "status__in" in page.filters and all(run.status in LIVE for run in page.items)
        if page.total is None or not believable:
            return None
        return LiveRuns(
            count=max(page.total, len(page.items)),
            newest=frozenset(run.id for run in page.items),
            markers=frozenset(filter(None, (mark_of(run.cause) for run in page.items))),
        )

    # ---- lists for the mirrors

    async def ended(self, since: datetime) -> Reading:
        """Reads all runs of the account that finished since then, as far as it is possible in one go."""
        return await read_finished(self._channel, since)

    async def begun(self, after: int | None) -> Begun:
        """Reads the runs of the account with a greater id; None: the newest."""
        return await read_begun(self._channel, after)

    # ---- finding runs and jobs

    def look_up(self, job_id: int, marker: str, retried: int | None, since: datetime) -> Question:
        """The question for the job's runs since `since` that have the marker or resume the run `retried`."""
        return self._look_ups.about(job_id, since, marker=marker, retried=retried)

    async def find_marked(self, job_id: int, marker: str, since: datetime) -> tuple[RunFacts, ...]:
        """The job's runs created since `since` (dbt Cloud's clock) whose cause opens with the marker, oldest first."""
        with self._look_ups.about(job_id, since, marker=marker) as question:
            return (await question.answer()).found

    async def find_retries(self, job_id: int, run_id: int, since: datetime) -> tuple[RunFacts, ...]:
        """The job's runs created since `since` (dbt Cloud's clock) that resume the run, oldest first."""
        with self._look_ups.about(job_id, since, retried=run_id) as question:
            return (await question.answer()).found

    async def find_live(self, job_id: int) -> RunFacts | None:
        """The newest run of the job that is not over."""
        params = {
            "job_definition_id": str(job_id),
            "status__in": _array(LIVE),
            "order_by": "-id",
            "include_related": '["trigger"]',
        }
        page = await self._channel.page("runs/", params, wire.RUNS, Priority.SUBMIT)
        # The default order is the oldest first (documented), so an ignored `order_by` would show years-old runs.
        search.prove_newest_first(page)
        newest = next((run for run in page.items if run.job == job_id and run.status in LIVE), None)
        return newest.facts(self._connection.base_url) if newest else None

    async def resolve_job(self, job: Job) -> int:
        """The id of a job that is given by id, or by the exact names of itself, its project and its environment.

        Raises:
            JobNotFound: the message says which name has no match, or several.
        """
        return job.id if job.id is not None else await search.find_job(self._channel, job)


def _one_run(received: Received) -> wire.Run:
    return received.data(wire.ONE_RUN).data


def _one_named(received: Received) -> wire.Named:
    return received.data(wire.ONE_NAMED).data


def _decoded(body: bytes | bytearray, decoder: msgspec.json.Decoder[T]) -> T | None:
    """What dbt wrote after a step; None if it cannot be read."""
    if body.count(b"{") > MAX_OBJECTS:
        return None
    try:
        return decoder.decode(body)
    except UNDECODABLE:
        return None


def _add(builds: Builds, file: File, body: bytes | bytearray) -> bool:
    """Takes what a step built.

    Raises:
        TooLarge: of `Builds.add`.
        ServerFault: the file cannot be read.
    """
    report = _decoded(body, wire.BUILD_REPORT)
    if report is None:
        raise ServerFault(f"{file.path} of step {file.step or 'last'} cannot be read.")
    builds.add(report, file.step)
    return True


def _body(overrides: Overrides) -> dict[str, Any]:
    """The overrides under dbt Cloud's names; absent ones are left out, so that the job's own values stand."""
    # Names of the OpenAPI description. Nulls are accepted from Airflow's provider, but forbidden by the description.
    pull_request = overrides.pull_request_id or PullRequestId()
    fields = {
        "steps_override": overrides.steps,
        "schema_override": overrides.schema,
        "git_branch": overrides.git_branch,
        "git_sha": overrides.git_sha,
        "threads_override": overrides.threads,
        "target_name_override": overrides.target,
        "dbt_version_override": overrides.dbt_version,
        "generate_docs_override": overrides.generate_docs,
        "timeout_seconds_override": overrides.timeout_seconds,
        "github_pull_request_id": pull_request.github,
        "gitlab_merge_request_id": pull_request.gitlab,
        "azure_pull_request_id": pull_request.azure_dev_ops,
        "non_native_pull_request_id": pull_request.other,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _array(values: Iterable[int]) -> str:
    """A list as dbt Cloud's filters take it: a JSON literal in one parameter."""
    # As Airflow's, Dagster's and dbtc's clients send it. The OpenAPI description means `pk__in=1&pk__in=2`, which none
    # of them does.
    return json.dumps([int(value) for value in values], separators=(",", ":"))
