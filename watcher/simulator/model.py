"""The account and its runs as a pure state machine: no I/O, no HTTP, time only through the clock.

A run moves by itself, at instants known in advance. They wait in a heap, and `advance()` applies what is due, so ten
thousand live runs cost nothing until something happens to one of them.
"""

from __future__ import annotations

import heapq
import random
from bisect import insort
from collections import defaultdict, deque
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from watcher.simulator.scenario import FailingNode, JobSpec, NodeResult, find_environment

if TYPE_CHECKING:
    from collections.abc import Callable

    from watcher.simulator.clock import Clock
    from watcher.simulator.scenario import EnvironmentSpec, ProjectSpec, Scenario, Span

# Recorded: since 2024, ids have 14 digits. A client that keeps them in 32 bits fails here as it would in dbt Cloud.
RUN_BASE = 70403110257000
DAY = 86400  # the account's cap on the length of a run, in seconds
CANCELLED_BY_USER = "Cancelled by user."
RETRYABLE = ("build", "compile", "clone", "docs generate", "seed", "snapshot", "test", "run", "run-operation")

Text = Annotated[str, msgspec.Meta(min_length=1)]


class Status(IntEnum):
    """The run statuses of the API."""

    QUEUED = 1
    STARTING = 2
    RUNNING = 3
    SUCCESS = 10
    ERROR = 20
    CANCELLED = 30

    @property
    def final(self) -> bool:
        """Whether the run has ended."""
        return self >= Status.SUCCESS


class TriggerRequest(msgspec.Struct, kw_only=True):
    """The body of `POST /jobs/{id}/run/`; keys it does not know are ignored, nulls are accepted."""

    cause: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    git_sha: Text | None = None
    git_branch: Text | None = None
    azure_pull_request_id: int | None = None
    github_pull_request_id: int | None = None
    gitlab_merge_request_id: int | None = None
    non_native_pull_request_id: int | None = None
    schema_override: Text | None = None
    dbt_version_override: Text | None = None
    threads_override: int | None = None
    target_name_override: Text | None = None
    generate_docs_override: bool | None = None
    timeout_seconds_override: int | None = None
    steps_override: Annotated[list[Text], msgspec.Meta(max_length=90)] | None = None


FAILS: tuple[Literal["error"], Literal["fail"]] = ("error", "fail")


class Run(msgspec.Struct, kw_only=True, eq=False):
    """One run: what was asked, what the script has in store for it, where it is.

    `*_at` are stamps (what the API reports), `*_time` are virtual instants (what the state machine counts in).
    """

    id: int
    job_id: int
    project_id: int
    environment_id: int
    request: TriggerRequest
    category: str
    commands: list[str]
    dbt_version: str
    outcome: Status
    queue: float
    start: float
    run: float | None
    timeout: float
    cancel_delay: float
    artifacts_after: float
    nodes: list[str]
    created_at: float
    created_time: float
    created_real: float
    parallel: bool = False
    failing_command: int | None = None
    failing: list[FailingNode] = []
    fails_at: Literal["clone", "profile", "deps", "parse"] | None = None
    log: str | None = None
    results: list[list[NodeResult]] | None = None
    message: str | None = None
    retrying_run_id: int | None = None
    status: Status = Status.QUEUED
    status_message: str | None = None
    updated_at: float = 0.0
    dequeued_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    dispatched_time: float | None = None
    dequeued_time: float | None = None
    started_time: float | None = None
    finished_time: float | None = None
    cancel_time: float | None = None
    due: float | None = None

    @property
    def live(self) -> bool:
        """Whether the run has not ended."""
        return not self.status.final


class Job(msgspec.Struct, kw_only=True, eq=False):
    """A job of the account, and how many of its runs have started."""

    spec: JobSpec
    project: ProjectSpec
    environment: EnvironmentSpec
    created_at: float
    taken: int = 0  # runs started, which is the place in the sequence of outcomes

    @property
    def id(self) -> int:
        """The id of the job.

        Raises:
            AssertionError: it has none yet, which only the scenario's own parts see.
        """
        if self.spec.id is None:
            raise AssertionError("a job gets its id before it gets here")
        return self.spec.id


class Refused(Exception):
    """The account does not do this; `reason` is the API's word for it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Account:
    """Everything one dbt Cloud account knows."""

    def __init__(self, scenario: Scenario, clock: Clock) -> None:
        self.scenario = scenario
        self.clock = clock
        self.spec = scenario.account
        self.created_at = clock.stamp(clock.now())
        self.jobs: dict[int, Job] = {}
        self.runs: dict[int, Run] = {}
        self.live: dict[int, Run] = {}
        self.by_job: defaultdict[int, list[Run]] = defaultdict(list)
        self.finished: list[tuple[float, int]] = []
        self.dirty: dict[int, Run] = {}
        self.on_change: Callable[[Run, float], object] = lambda _run, _at: None
        """Called with a run that has started to run or has ended, and the virtual instant."""
        self._random = random.Random(scenario.seed)  # noqa: S311 - spreads, not secrets
        self._heap: list[tuple[float, int]] = []
        self._busy: dict[int, int] = {}  # job → the run that holds it
        self._waiting: defaultdict[int, deque[int]] = defaultdict(deque)  # job → runs behind it
        self._slotless: deque[int] = deque()  # first of their job, but no run slot is free
        self._slots_taken = 0
        for spec in scenario.jobs:
            self.put_job(spec)

    # What is asked of it

    def put_job(self, spec: JobSpec) -> Job:
        """Add a job or give it a new script; runs that exist keep theirs."""
        project, environment = find_environment(self.scenario, spec, "job")
        old = self.jobs.get(spec.id or 0)
        created_at = old.created_at if old else self.clock.stamp(self.clock.now())
        job = Job(spec=spec, project=project, environment=environment, created_at=created_at)
        self.jobs[job.id] = job
        return job

    def start(self, job: Job, request: TriggerRequest, category: str = "api") -> Run:
        """Starts a run of a job."""
        commands = list(job.spec.steps if request.steps_override is None else request.steps_override)
        override = request.generate_docs_override
        if job.spec.generate_docs if override is None else override:
            commands.append("dbt docs generate")
        run = self._create(job, request, category, commands)
        outcome = job.spec.outcomes[min(job.taken, len(job.spec.outcomes) - 1)]
        job.taken += 1
        run.outcome = Status[outcome.upper()]
        if run.outcome is Status.ERROR:
            self._script_failure(run, job.spec)
        return self._enqueue(run)

    def retry(self, run: Run) -> Run:
        """A new run from the point of failure.

        :raises Refused: with the reason that the API names.
        """
        reason = self.retry_refusal(run)
        if reason:
            raise Refused(reason)
        job = self.jobs[run.job_id]
        request = msgspec.structs.replace(run.request, cause=f"Retry of run {run.id} from the point of failure")
        again = self._create(job, request, "rerun", run.commands[run.failing_command or 0 :])
        again.retrying_run_id = run.id
        outcome = job.spec.outcomes[min(job.taken, len(job.spec.outcomes) - 1)]
        job.taken += 1
        again.outcome = Status[outcome.upper()]
        if again.outcome is Status.ERROR:
            again.failing_command, again.failing, again.message = 0, run.failing, run.message
            again.fails_at, again.log = run.fails_at, run.log
        return self._enqueue(again)

    def rerun(self, job: Job) -> Run:
        """Retry the job's latest run if it failed, else start afresh."""
        latest = self.latest(job.id)
        if latest and self.retry_refusal(latest) is None:
            return self.retry(latest)
        return self.start(job, TriggerRequest(cause="Triggered via API"))

    def cancel(self, run: Run) -> bool:
        """Ask for the end of a run; True if that changed anything."""
        if run.status.final or run.cancel_time is not None:
            return False
        now = self.clock.now()
        if run.status is Status.QUEUED:
            # Recorded: a queued run has ended with the reply. One that runs ends later; Airflow's provider polls until
            # it has.
            self._end(run, Status.CANCELLED, now, CANCELLED_BY_USER)
        else:
            run.cancel_time = now + run.cancel_delay
            self._schedule(run)
        self.advance()
        return True

    def finish(self, run: Run, status: Status, message: str | None = None) -> None:
        """End a run now, whatever its script says: somebody's hand, or dbt's."""
        now = self.clock.now()
        if run.status is not Status.RUNNING and status is not Status.CANCELLED:
            run.dequeued_time = run.dequeued_time or now
            run.dequeued_at = run.dequeued_at or self.clock.stamp(now)
            run.started_time, run.started_at = now, self.clock.stamp(now)
        if status is Status.ERROR and run.failing_command is None:
            self._script_failure(run, self.jobs[run.job_id].spec)
        self._end(run, status, now, message)
        self.advance()

    # What it tells

    def latest(self, job_id: int) -> Run | None:
        """The newest run of a job."""
        runs = self.by_job.get(job_id)
        return runs[-1] if runs else None

    def blocked_by(self, run: Run) -> list[int]:
        """The runs of the same job that must end before this one begins."""
        holder = self._busy.get(run.job_id)
        if run.status is not Status.QUEUED or run.parallel or holder is None or holder == run.id:
            return []
        return [holder]

    def retry_refusal(self, run: Run) -> str | None:
        """Why a run cannot be retried; None if it can: it failed, is its job's latest, on dbt >= 1.6, with results."""
        latest = self.latest(run.job_id)
        if run.status is not Status.ERROR:
            return "RETRY_NOT_FAILED_RUN"
        if latest is not run:
            return "RETRY_NOT_LATEST_RUN"
        parts = run.dbt_version.split(".")
        minor = int(parts[1]) if parts[1:] and parts[1].isdigit() else 0
        if parts[0].isdigit() and (int(parts[0]), minor) < (1, 6):
            return "RETRY_UNSUPPORTED_VERSION"
        if run.failing_command is None or run.fails_at is not None:
            return "RETRY_NO_RUN_RESULTS"
        command = run.commands[run.failing_command].removeprefix("dbt ")
        return None if command.startswith(RETRYABLE) else "RETRY_UNSUPPORTED_CMD"

    def has_artifacts(self, run: Run) -> bool:
        """Whether the run has ended and its files are uploaded."""
        ended = run.status in (Status.SUCCESS, Status.ERROR) and run.started_time is not None
        return ended and self.clock.now() >= (run.finished_time or 0.0) + run.artifacts_after

    # How time passes

    def advance(self) -> None:
        """Apply everything that is due by now, in order."""
        now = self.clock.now()
        while self._heap and self._heap[0][0] <= now:
            at, run_id = heapq.heappop(self._heap)
            run = self.runs[run_id]
            if run.due != at:
                continue  # it was scheduled again, so the heap has it twice: only its present instant counts
            if run.cancel_time is not None and at >= run.cancel_time:
                self._end(run, Status.CANCELLED, at, CANCELLED_BY_USER)
            elif run.status is Status.QUEUED:
                run.status, run.dequeued_time, run.dequeued_at = Status.STARTING, at, self.clock.stamp(at)
                self._touch(run, at)
            elif run.status is Status.STARTING:
                run.status, run.started_time, run.started_at = Status.RUNNING, at, self.clock.stamp(at)
                self._touch(run, at)
                self.on_change(run, at)
            elif run.run is not None and at >= (run.started_time or 0.0) + run.run:
                messages = {Status.ERROR: run.message, Status.CANCELLED: CANCELLED_BY_USER}
                self._end(run, run.outcome, at, messages.get(run.outcome))
            else:
                self._end(run, Status.CANCELLED, at, timeout_message(run.timeout))

    def set_clock(self, speed: float | None, offset: float | None) -> None:
        """Sets the clock that runs follow."""
        self.advance()
        self.clock.set(speed, offset)

    def take_dirty(self) -> list[Run]:
        """The runs that changed since the last call."""
        changed = list(self.dirty.values())
        self.dirty.clear()
        return changed

    def restore(self, runs: list[Run], taken: dict[int, int]) -> None:
        """Take up runs of an earlier process, oldest first, and go on where they are."""
        # In this order: which run holds a job or a slot must be known before others are put behind it.
        for job_id, count in taken.items():
            if job_id in self.jobs:
                self.jobs[job_id].taken = count
        for run in runs:
            self._index(run)
        for run in runs:
            if run.finished_at is not None:
                insort(self.finished, (run.finished_at, run.id))
            elif run.dispatched_time is not None:
                self._occupy(run)
        for run in runs:
            if run.live and run.dispatched_time is None:
                self._wait(run)
            elif run.live and run.due is not None:
                heapq.heappush(self._heap, (run.due, run.id))
        self.advance()

    # The machine

    def _create(self, job: Job, request: TriggerRequest, category: str, commands: list[str]) -> Run:
        spec, now = job.spec, self.clock.now()
        override = request.timeout_seconds_override
        timeout = spec.timeout_seconds if override is None else override
        return Run(
            id=(next(reversed(self.runs)) if self.runs else RUN_BASE) + self._random.randint(1, 7),
            job_id=job.id,
            project_id=job.project.id or 0,
            environment_id=job.environment.id or 0,
            request=request,
            category=category,
            commands=commands,
            dbt_version=request.dbt_version_override or job.environment.dbt_version,
            outcome=Status.SUCCESS,
            queue=self._draw(spec.queue),
            start=self._draw(spec.start),
            run=None if spec.run is None else self._draw(spec.run),
            # 0: no limit of the job's own. The account's `run_duration_limit_seconds` holds in any case (recorded: a
            # run of a day ended so).
            timeout=min(timeout or DAY, DAY),
            cancel_delay=spec.cancel_delay,
            artifacts_after=spec.artifacts_after,
            nodes=spec.nodes,
            results=spec.results,
            parallel=spec.parallel,
            created_at=self.clock.stamp(now),
            created_time=now,
            created_real=self.clock.real(),
            updated_at=self.clock.stamp(now),
        )

    def _script_failure(self, run: Run, spec: JobSpec) -> None:
        command = min(spec.failing_step or len(spec.steps), len(run.commands)) - 1
        nodes = spec.results[command] if spec.results is not None and command < len(spec.results) else []
        # By the step's own results.
        failing = [
            FailingNode(node=node.node, status=status, message=node.message or "It failed.", failures=node.failures)
            for node in nodes
            for status in FAILS
            if node.status == status
        ]
        run.failing_command = command
        run.failing = spec.failing or failing or [FailingNode(node=spec.nodes[-1])]
        run.message = spec.message
        run.fails_at, run.log = spec.fails_at, spec.log

    def _enqueue(self, run: Run) -> Run:
        self._index(run)
        self._wait(run)
        self.advance()
        return run

    def _index(self, run: Run) -> None:
        self.runs[run.id] = run
        self.by_job[run.job_id].append(run)
        self.dirty[run.id] = run
        if run.live:
            self.live[run.id] = run

    def _wait(self, run: Run) -> None:
        """A new run stands behind the one that holds its job; if there is none, it is next."""
        if run.parallel:
            self._dispatch(run, run.created_time)
        elif run.job_id in self._busy:
            self._waiting[run.job_id].append(run.id)
        else:
            self._busy[run.job_id] = run.id
            self._dispatch(run, run.created_time)

    def _dispatch(self, run: Run, at: float) -> None:
        """First of its job: it needs a run slot too."""
        slots = self.spec.run_slots
        if slots is not None and self._slots_taken >= slots:
            self._slotless.append(run.id)
            return
        run.dispatched_time = at
        self._occupy(run)
        self._schedule(run)

    def _occupy(self, run: Run) -> None:
        self._slots_taken += 1
        if not run.parallel:
            self._busy[run.job_id] = run.id

    def _schedule(self, run: Run) -> None:
        """Work out the next instant at which something happens to the run by itself."""
        times: list[float | None]
        if run.status is Status.QUEUED:
            times = [max(run.created_time + run.queue, run.dispatched_time or 0.0)]
        elif run.status is Status.STARTING:
            times = [(run.dequeued_time or 0.0) + run.start, run.cancel_time]
        else:
            started = run.started_time or 0.0
            times = [None if run.run is None else started + run.run, started + run.timeout, run.cancel_time]
        run.due = min(time for time in times if time is not None)
        heapq.heappush(self._heap, (run.due, run.id))
        self.dirty[run.id] = run

    def _touch(self, run: Run, at: float) -> None:
        run.updated_at = self.clock.stamp(at)
        self._schedule(run)

    def _end(self, run: Run, status: Status, at: float, message: str | None) -> None:
        run.status, run.status_message, run.due = status, message, None
        run.finished_time, run.finished_at = at, self.clock.stamp(at)
        run.updated_at = run.finished_at
        self.live.pop(run.id, None)
        self.dirty[run.id] = run
        insort(self.finished, (run.finished_at, run.id))
        # It gives back what it held, and the next run in the queue gets it.
        if run.dispatched_time is not None:
            self._slots_taken -= 1
        elif run.id in self._slotless:
            self._slotless.remove(run.id)
        waiting = self._waiting[run.job_id]
        if self._busy.get(run.job_id) == run.id:
            del self._busy[run.job_id]
            if waiting:
                following = self.runs[waiting.popleft()]
                self._busy[following.job_id] = following.id
                self._dispatch(following, at)
        elif run.id in waiting:
            waiting.remove(run.id)
        if self._slotless and self._slots_taken < (self.spec.run_slots or 0):
            self._dispatch(self.runs[self._slotless.popleft()], at)
        self.on_change(run, at)

    def _draw(self, span: Span) -> float:
        return self._random.uniform(span[0], span[1]) if isinstance(span, list) else span


def timeout_message(seconds: float) -> str:
    """The sentence of a recorded run that ran too long."""
    return (
        f"This run timed out after running for {humanized(seconds)}, "
        f"which exceeded the configured timeout of {seconds:.0f} seconds."
    )


UNITS: list[tuple[str, int]] = [("week", 604800), ("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)]


def humanized(seconds: float) -> str:
    """A duration in words, its two largest units: `1 minute, 47 seconds`."""
    rest, words = int(abs(seconds)), []
    for name, size in UNITS:
        count, rest = divmod(rest, size)
        if count:
            words.append(f"{count} {name}{'s' if count > 1 else ''}")
    return ", ".join(words[:2]) or "0 minutes"
