"""What the simulated account holds and how its jobs behave: a YAML file, or the built-in one.

Every mistake in the file becomes one sentence that names the place. Unknown keys are mistakes: a mistyped `outcome:`
that silently means "success" would make a test pass for the wrong reason.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import msgspec
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

DEFAULT_TOKEN = "dbt-simulator-token"  # noqa: S105 - the documented token of a simulator, a secret of nobody
ACCOUNT_ID = 70403103922125
PROJECT_BASE = 70403103937000
ENVIRONMENT_BASE = 70403103940000
JOB_BASE = 70403104000000

T = TypeVar("T")
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
# Beyond 2**53, a client that reads JSON's numbers as floats would meet another id.
Id = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
Count = Annotated[int, msgspec.Meta(ge=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
# [low, high]: drawn evenly. A list, since msgspec 0.22 crashes on a bounded number beside a tuple of fixed length.
Span = Seconds | Annotated[list[Seconds], msgspec.Meta(min_length=2, max_length=2)]
Outcome = Literal["success", "error", "cancelled"]


class ScenarioError(ValueError):
    """One sentence that names the place in the file and what is expected there."""


class FailingNode(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One node in the run_results.json of a failed run."""

    node: Name
    message: str = "Database Error: relation does not exist"
    status: Literal["error", "fail"] = "error"
    failures: Annotated[int, msgspec.Meta(ge=0)] | None = None


class NodeResult(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One node in the run_results.json of one step, in dbt's words."""

    node: Name
    status: Annotated[str, msgspec.Meta(min_length=1, max_length=60)] = "success"
    message: str | None = None
    failures: Annotated[int, msgspec.Meta(ge=0)] | None = None


class JobSpec(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A job and its script. Durations are seconds; from a list of two, each run draws a value between them."""

    name: Name
    id: Id | None = None
    project: Id | Name | None = None
    environment: Id | Name | None = None
    steps: Annotated[list[Name], msgspec.Meta(min_length=1, max_length=90)] = msgspec.field(
        default_factory=lambda: ["dbt build"]
    )
    generate_docs: bool = False
    queue: Span = 1.0
    start: Span = 1.0
    run: Span | None = 10.0  # null: runs until the control API finishes it
    cancel_delay: Seconds = 1.0
    artifacts_after: Seconds = 0.0
    # One for each run in turn; the last one repeats.
    outcomes: Annotated[list[Outcome], msgspec.Meta(min_length=1)] = msgspec.field(default_factory=lambda: ["success"])
    message: str | None = None  # status_message of a run that fails
    failing_step: Count | None = None  # 1-based in `steps`; default the last
    # Fails before any node runs: in one of dbt Cloud's own steps, or while dbt reads the project in `failing_step`.
    fails_at: Literal["clone", "profile", "deps", "parse"] | None = None
    log: str | None = None  # of the failed step, instead of the usual one
    failing: list[FailingNode] = []
    # For each of `steps`, its own nodes; absent: `nodes` and `failing`.
    results: list[list[NodeResult]] | None = None
    nodes: Annotated[list[Name], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: ["model.shop.customers", "model.shop.orders"]
    )
    timeout_seconds: Annotated[int, msgspec.Meta(ge=0)] = 0  # 0: only the account's cap of a day
    parallel: bool = False  # CI jobs run in parallel, all others one after another


class EnvironmentSpec(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """An environment of a project."""

    name: Name
    id: Id | None = None
    dbt_version: Name = "versionless"


class ProjectSpec(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A project with its environments."""

    name: Name
    id: Id | None = None
    environments: Annotated[list[EnvironmentSpec], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: [EnvironmentSpec(name="Production")]
    )


class TokenSpec(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A token; with `projects` it sees only these."""

    token: Name
    projects: list[Id | Name] | None = None
    read_only: bool = False

    def __repr__(self) -> str:
        return f"TokenSpec(token='***', projects={self.projects!r}, read_only={self.read_only})"


Event = Literal["job.run.started", "job.run.completed", "job.run.errored"]


class WebhookSpec(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A subscription. Without `job_ids` it is for every job."""

    client_url: Name
    name: Name = "webhook"
    description: str | None = None
    event_types: Annotated[list[Event], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: ["job.run.started", "job.run.completed", "job.run.errored"]
    )
    job_ids: list[Id] = []
    active: bool = True
    hmac_secret: Name | None = None  # null: the simulator generates one

    def __repr__(self) -> str:
        return f"WebhookSpec(client_url={self.client_url!r}, hmac_secret='***')"


class AccountSpec(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The only account of the simulator."""

    id: Id = ACCOUNT_ID
    name: Name = "Simulated"
    run_slots: Count | None = None  # null: unlimited
    unpaid: bool = False  # an unpaid account has no API


def _default_jobs() -> list[JobSpec]:
    return [
        JobSpec(name="daily build", run=[8.0, 12.0]),
        JobSpec(name="flaky build", run=5.0, outcomes=["error", "success"]),
        JobSpec(name="broken build", run=5.0, outcomes=["error"]),
        JobSpec(name="endless build", run=None, timeout_seconds=3600),
    ]


class Scenario(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A whole scenario; every field has a default."""

    account: AccountSpec = msgspec.field(default_factory=AccountSpec)
    tokens: list[TokenSpec] = msgspec.field(default_factory=lambda: [TokenSpec(token=DEFAULT_TOKEN)])
    projects: Annotated[list[ProjectSpec], msgspec.Meta(min_length=1)] = msgspec.field(
        default_factory=lambda: [ProjectSpec(name="Analytics")]
    )
    jobs: list[JobSpec] = msgspec.field(default_factory=_default_jobs)
    webhooks: list[WebhookSpec] = []
    faults: list[dict[str, Any]] = []  # rules that apply from the start, as in POST /_simulator/faults
    seed: int = 0

    def __post_init__(self) -> None:
        _number(self.projects, PROJECT_BASE)
        _number([environment for project in self.projects for environment in project.environments], ENVIRONMENT_BASE)
        _number(self.jobs, JOB_BASE)
        _unique("projects[].id", (project.id for project in self.projects))
        _unique("projects[].environments[].id", (e.id for project in self.projects for e in project.environments))
        _unique("jobs[].id", (job.id for job in self.jobs))
        if len({token.token for token in self.tokens}) < len(self.tokens):
            raise ScenarioError("tokens: the same token is given twice, keep one.")
        for index, token in enumerate(self.tokens):
            for project in token.projects or ():
                find_project(self, project, f"tokens[{index}].projects")
        for index, job in enumerate(self.jobs):
            check_job(self, job, f"jobs[{index}]")


def load(path: Path) -> Scenario:
    """Read a scenario file.

    :raises ScenarioError: it cannot be read, is not YAML, or has an impossible value.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ScenarioError(f"{path}: cannot be read: {reason}.") from None
    try:
        return parse(text)
    except ScenarioError as error:
        raise ScenarioError(f"{path}: {error}") from None


def parse(text: str) -> Scenario:
    """A scenario from YAML text.

    :raises ScenarioError: with one sentence.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ScenarioError(f"not YAML{place}: {getattr(error, 'problem', None) or 'unreadable'}.") from None
    return convert({} if document is None else document, Scenario)


def convert(document: Any, kind: type[T]) -> T:
    """Plain data as one of the types above.

    :raises ScenarioError: with one sentence.
    """
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        # `Expected int, got str - at $.jobs[0].id` is turned round: the place first.
        text, _, found = str(error).partition(" - at `")
        found = found.rstrip("`").removeprefix("$").removeprefix(".")
        place = found or "the top level"
        if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", text):
            told = f"{place} has no field `{unknown[1]}`: see the list of fields in docs/simulator.md."
        elif missing := re.fullmatch(r"Object missing required field `(.*)`", text):
            told = f"{place} needs the field `{missing[1]}`."
        elif not found and text.endswith("."):
            told = text  # a sentence of our own
        else:
            told = f"{place}: {text[0].lower()}{text[1:].rstrip('.')}."
        raise ScenarioError(told) from None


def _number(items: Sequence[ProjectSpec | EnvironmentSpec | JobSpec], base: int) -> None:
    """Give an id to whatever has none, the same one every time the file is read."""
    taken = {item.id for item in items}
    free = (number for number in range(base + 1, base + 2 * len(items) + 1) if number not in taken)
    for item in items:
        if item.id is None:
            item.id = next(free)


def _unique(what: str, values: Iterable[object]) -> None:
    seen = set()
    for index, value in enumerate(values):
        if value in seen:
            raise ScenarioError(f"{what.replace('[]', f'[{index}]')}: {value} is used twice, choose another.")
        seen.add(value)


def check_job(scenario: Scenario, job: JobSpec, place: str) -> None:
    """What types cannot say.

    :raises ScenarioError: with one sentence.
    """
    find_environment(scenario, job, place)
    for field in ("queue", "start", "run"):
        span = getattr(job, field)
        if isinstance(span, list) and span[0] > span[1]:
            raise ScenarioError(f"{place}.{field}: the spread [{span[0]:g}, {span[1]:g}] must go from low to high.")
    if job.failing_step is not None and job.failing_step > len(job.steps):
        raise ScenarioError(f"{place}.failing_step: {job.failing_step} is more than the {len(job.steps)} steps.")


def find_project(scenario: Scenario, wanted: int | str | None, place: str) -> ProjectSpec:
    """A project by id or name; the first one when none is named.

    Raises:
        ScenarioError: there is no such project.
    """
    if wanted is None:
        return scenario.projects[0]
    for project in scenario.projects:
        if wanted in (project.id, project.name):
            return project
    known = ", ".join(project.name for project in scenario.projects)
    raise ScenarioError(f"{place}: there is no project {wanted!r}, the projects are {known}.")


def find_environment(scenario: Scenario, job: JobSpec, place: str) -> tuple[ProjectSpec, EnvironmentSpec]:
    """Where a job runs.

    Raises:
        ScenarioError: there is no such project or environment.
    """
    project = find_project(scenario, job.project, f"{place}.project")
    if job.environment is None:
        return project, project.environments[0]
    for environment in project.environments:
        if job.environment in (environment.id, environment.name):
            return project, environment
    known = ", ".join(environment.name for environment in project.environments)
    raise ScenarioError(
        f"{place}.environment: project {project.name} has no environment {job.environment!r}, it has {known}."
    )
