"""dbt Cloud's replies as they travel, only the fields that are used, read leniently and turned into facts.

Lenient, because the official description and recorded replies differ: nulls anywhere, numbers as strings, times with a
space, unknown keys and words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Generic, TypeVar

import msgspec

from dbtrun.api.status import MAX_LOG_TAIL, MAX_MESSAGE, MAX_STEP_NAME
from dbtrun.scrub import log_tail, told
from dbtrun.text import clean, natural
from watcher.dbtcloud.errors import ServerFault, UnknownStatus
from watcher.lifecycle.cause import failed_step
from watcher.lifecycle.facts import RunFacts, RunState, StepFacts

# dbt Cloud's limit is undocumented; Airflow's dbt Cloud provider cuts at the same length.
MAX_CAUSE: Final = 255
MAX_ID: Final = 2**63 - 1
"""What Kubernetes keeps in a status; dbt Cloud's ids have up to 14 digits."""
EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
END: Final = datetime(2200, 1, 1, tzinfo=UTC)
"""Times outside are taken for none: arithmetic with the year 1 or 9999 fails."""
MAX_URL: Final = 500
MAX_WORD: Final = 60
"""Characters of a status or reason that dbt Cloud names by one word or two."""
MAX_INDEX: Final = 10_000
"""Of a step, and of its status."""
MAX_READ_STEPS: Final = 1_000
"""Steps of a run that are looked at; the status shows fewer."""

T = TypeVar("T")


class Wire(msgspec.Struct, frozen=True):
    """Base of all wire models: unknown keys are ignored."""


class Verdict(Wire, frozen=True):
    """The `status` of dbt Cloud's envelope."""

    code: int
    is_success: bool | None = None
    user_message: str | None = None


class Pagination(Wire, frozen=True):
    """Where a page stands in its list."""

    total_count: int | None = None


ABSENT: Final = msgspec.Raw()


class Filters(Wire, frozen=True):
    """Those filters that it matters to see echoed. Their values are not read: they could be of any size."""

    # Observed in recorded lists: `extra.filters` echoes the filters that were applied. An ignored one is missing.
    pk__in: msgspec.Raw = ABSENT
    status__in: msgspec.Raw = ABSENT

    @property
    def applied(self) -> frozenset[str]:
        """Names of the filters that were echoed."""
        return frozenset(name for name in self.__struct_fields__ if bytes(getattr(self, name)))


class Extra(Wire, frozen=True):
    """What a list says about itself: the filters that dbt Cloud applied, and the size of the whole."""

    filters: Filters | None = None
    pagination: Pagination | None = None


class Reply(Wire, Generic[T], frozen=True):
    """dbt Cloud's envelope around what was asked for."""

    data: T
    extra: Extra | None = None

    @property
    def filters(self) -> frozenset[str]:
        """The filters that dbt Cloud says it applied."""
        return self.extra.filters.applied if self.extra and self.extra.filters else frozenset()

    @property
    def total(self) -> int | None:
        """How many items the whole list has, if the reply says so."""
        return self.extra.pagination.total_count if self.extra and self.extra.pagination else None


class Refusal(Wire, frozen=True):
    """The envelope of an error; `data` may say which field is wrong."""

    status: Verdict
    data: Any = None


class Trigger(Wire, frozen=True):
    """What started a run."""

    cause: str | None = None
    cause_category: str | None = None


class RunStep(Wire, frozen=True):
    """One command of a run."""

    index: int
    status: int
    name: str | None = None
    status_humanized: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    logs: msgspec.Raw = ABSENT
    debug_logs: msgspec.Raw = ABSENT
    """Logs are decoded for one step alone, as they can be of any size."""

    def facts(self, secret: str) -> StepFacts:
        """The step without its logs."""
        return StepFacts(
            index=max(0, min(self.index, MAX_INDEX)),
            name=told(self.name or "", MAX_STEP_NAME, secret),
            state=max(0, min(self.status, MAX_INDEX)),
            status=clean(self.status_humanized or "", MAX_WORD),
            started_at=instant(self.started_at),
            finished_at=instant(self.finished_at),
        )

    def log(self, secret: str) -> str:
        """The end of its log; empty if it has none that can be read."""
        # A debug log only if there is no other: each of its lines begins with a level and a thread.
        for raw in (self.logs, self.debug_logs):
            try:
                text = msgspec.json.decode(raw, type=str)
            except (msgspec.DecodeError, ValueError):
                continue  # null, absent, or no text
            if text.strip():
                return log_tail(text, MAX_LOG_TAIL, secret)
        return ""


class Run(Wire, frozen=True):
    """A run as listed, fetched, or answered to a start."""

    id: int
    account_id: int
    status: int
    # Observed: relations are null unless `include_related` names them, and so are times that are not known yet. The
    # OpenAPI description allows no null anywhere.
    job_definition_id: int | None = None
    job_id: int | None = None
    project_id: int | None = None
    environment_id: int | None = None
    status_message: str | None = None
    status_humanized: str | None = None
    in_progress: bool | None = None
    # Observed: an address of the web interface, absent or another one in replies of 2021.
    href: str | None = None
    # Observed: the answer to a start has it even if `include_related` does not name it; any other reply has null.
    trigger: Trigger | None = None
    retrying_run_id: int | None = None
    can_retry: bool | None = None
    retry_not_supported_reason: str | None = None
    created_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    run_steps: list[RunStep] | None = None

    @property
    def job(self) -> int:
        """The job's id, which dbt Cloud gives under two names; 0 if under neither."""
        return known_id(self.job_definition_id) or known_id(self.job_id) or 0

    @property
    def cause(self) -> str:
        """The cause as dbt Cloud echoes it; empty if it has no cause or the trigger was not included."""
        return (self.trigger.cause if self.trigger else None) or ""

    def facts(self, base_url: str, *, steps: bool = False, secret: str = "") -> RunFacts:
        """The run as facts.

        Args:
            base_url: where to point people if the reply has no usable address.
            steps: whether the steps were asked for; unasked, an empty list says nothing.
            secret: the connection's token, which no text may show.

        Raises:
            UnknownStatus: that is never taken for an end.
            ServerFault: the run's id is not valid.
        """
        if known_id(self.id) is None:
            raise ServerFault("dbt Cloud reports a run with an invalid id")
        state = self._state()
        return RunFacts(
            run_id=self.id,
            account_id=self.account_id,
            job_id=self.job,
            project_id=known_id(self.project_id),
            environment_id=known_id(self.environment_id),
            state=state,
            message=told(self.status_message or "", MAX_MESSAGE, secret),
            url=self._url(base_url),
            cause=None if self.trigger is None else clean(self.cause, MAX_CAUSE),
            cause_category=clean((self.trigger.cause_category if self.trigger else None) or "", MAX_WORD) or None,
            retrying_run_id=known_id(self.retrying_run_id),
            can_retry=bool(self.can_retry),
            retry_refusal=clean(self.retry_not_supported_reason or "", MAX_WORD) or None,
            created_at=instant(self.created_at),
            started_at=instant(self.started_at),
            finished_at=instant(self.finished_at),
            steps=self._steps(state, secret) if steps else None,
        )

    def _steps(self, state: RunState, secret: str) -> tuple[StepFacts, ...]:
        """The steps; after a bad end, that at which it ended has its log."""
        read = (self.run_steps or [])[:MAX_READ_STEPS]
        steps = [step.facts(secret) for step in read]
        failed = failed_step(steps) if state.over and state is not RunState.SUCCESS else None
        if failed is not None:
            at = steps.index(failed)
            steps[at] = replace(failed, log=read[at].log(secret))
        return tuple(steps)

    def _state(self) -> RunState:
        # The OpenAPI description names the codes in prose only, so a new one may appear at any time. Observed:
        # `in_progress` is true from queued to running, so it distinguishes live runs whatever their code.
        try:
            return RunState(self.status)
        except ValueError:
            if self.in_progress:
                return RunState.RUNNING
        word = clean(self.status_humanized or "?", MAX_WORD)
        raise UnknownStatus(
            f"dbt Cloud gives run {self.id} the status {self.status} ({word}), which this version does not know: it "
            "does not count as an end"
        )

    def _url(self, base_url: str) -> str | None:
        href = self.href or ""
        # Only where people end up at the host of the connection: with `https://host@evil/` they do not.
        below = href.isascii() and href.isprintable() and " " not in href and href.startswith(f"{base_url}/")
        if below and len(href) <= MAX_URL:
            return href
        if known_id(self.project_id) is None:
            return None
        # Observed: the form of `href` in recorded runs.
        return f"{base_url}/deploy/{self.account_id}/projects/{self.project_id}/runs/{self.id}/"


class Named(Wire, frozen=True):
    """A project, an environment or a job, as far as finding it by name needs."""

    id: int
    name: str | None = None
    state: int | None = None
    project_id: int | None = None
    environment_id: int | None = None

    @property
    def deleted(self) -> bool:
        """Whether dbt Cloud only keeps it as a memory (state 2)."""
        # `state` of the OpenAPI description: 1 is active, 2 is deleted. Lists have both.
        return self.state == 2

    def within(self, parents: Mapping[str, int]) -> bool:
        """Whether it belongs to these parents, as far as the reply says."""
        return all(getattr(self, key) in (None, value) for key, value in parents.items())


class NodeResult(Wire, frozen=True):
    """One node of run_results.json, or one source of sources.json."""

    status: str
    unique_id: str | None = None
    message: str | None = None
    error: str | None = None
    max_loaded_at: str | None = None

    @property
    def words(self) -> str:
        """What dbt says about it."""
        stale = f"last loaded at {self.max_loaded_at}" if self.max_loaded_at else ""
        return self.message or self.error or stale


class Arguments(Wire, frozen=True):
    """How dbt was called."""

    which: str | None = None


class NodeBuild(Wire, frozen=True):
    """One node of run_results.json, as far as those need it who use what it built."""

    status: str
    unique_id: str | None = None
    relation_name: str | None = None
    adapter_response: msgspec.Raw = ABSENT

    @property
    def rows_affected(self) -> int | None:
        """As the adapter counts them. Each adapter has fields of its own."""
        try:
            return msgspec.json.decode(self.adapter_response, type=_AdapterResponse).rows_affected
        except (msgspec.DecodeError, RecursionError):
            return None


class _AdapterResponse(Wire, frozen=True):
    rows_affected: Annotated[int, msgspec.Meta(ge=0, le=MAX_ID)] | None = None


class BuildReport(Wire, frozen=True):
    """run_results.json again."""

    results: list[NodeBuild]
    args: Arguments | None = None


class Report(Wire, frozen=True):
    """run_results.json, which dbt writes after each command (schema run-results v4 to v6), or sources.json (v3)."""

    results: list[NodeResult]
    args: Arguments | None = None


def instant(text: str | None) -> datetime | None:
    """Reads `2024-07-03 13:59:00.653171+00:00` and RFC 3339, in UTC; None for what is no time.

    A time is told to people and bounds deadlines; one that cannot be read must not hide the run's state.
    """
    # Observed: times of runs have a space and an offset, times of jobs a `T` and a `Z`; a fraction may be absent.
    if not text or len(text) > MAX_WORD:
        return None
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment if EPOCH <= moment < END else None


def known_id(number: int | None) -> int | None:
    """The number if it can be the id of something; else None."""
    return number if number is not None and 0 < number <= MAX_ID else None


class Account(Wire, frozen=True):
    """The account that a token belongs to."""

    id: int
    name: str | None = None


class Webhook(Wire, frozen=True):
    """A webhook subscription. dbt Cloud writes the ids of its jobs as strings."""

    id: str
    client_url: str
    name: str
    active: bool = False
    description: str | None = None
    job_ids: list[str] | None = None
    event_types: list[str] = []

    @property
    def activation(self) -> dict[str, Any]:
        """The body that activates it: all that it is, for dbt Cloud replaces it as a whole."""
        # Ids are numbers in requests. Documented: an empty list stands for all jobs.
        job_ids = [number for job_id in self.job_ids or () if (number := natural(job_id, digits=19)) is not None]
        return {
            "name": self.name,
            "description": self.description or "",
            "client_url": self.client_url,
            "event_types": self.event_types,
            "job_ids": job_ids,
            "active": True,
        }


# `strict=False`: observed in webhooks, ids are texts there; a number as text must not make a run unreadable.
ONE_RUN: Final = msgspec.json.Decoder(Reply[Run], strict=False)
RUNS: Final = msgspec.json.Decoder(Reply[list[Run]], strict=False)
WEBHOOKS: Final = msgspec.json.Decoder(Reply[list[Webhook]], strict=False)
ONE_NAMED: Final = msgspec.json.Decoder(Reply[Named], strict=False)
NAMED: Final = msgspec.json.Decoder(Reply[list[Named]], strict=False)
ACCOUNT: Final = msgspec.json.Decoder(Reply[Account], strict=False)
REPORT: Final = msgspec.json.Decoder(Report, strict=False)
BUILD_REPORT: Final = msgspec.json.Decoder(BuildReport, strict=False)
REFUSAL: Final = msgspec.json.Decoder(Refusal, strict=False)
