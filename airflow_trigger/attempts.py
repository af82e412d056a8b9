"""Which DbtRun belongs to a try of a task. Pure.

A worker may die after it created an object, Airflow may be away when the run ends, a person may clear a task. So a try
does not remember: it looks at the objects that carry its task's labels, and the newest of them decides.

Two annotations make that safe. `waiting-try` is the last try that took the object on, so that the end of an older one
does not cancel it. `consumed` says that a try told Airflow the outcome; it carries the try's `max_tries`, which
Airflow raises when a task is cleared and never otherwise: so a crash just after a success is told from a wish to run
again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from watcher.api import Phase, Reason

if TYPE_CHECKING:
    from airflow_trigger.taskruns import TaskRun

PREFIX: Final = "airflow.dbtrun.dev"
TASK_INSTANCE: Final = f"{PREFIX}/task-instance"
"""Label: a digest of dag, run, task and map index, exact whatever those contain."""
TRY: Final = f"{PREFIX}/try"
"""Label: the number in the object's name, at least the try that created it."""
WAITING_TRY: Final = f"{PREFIX}/waiting-try"
CONSUMED: Final = f"{PREFIX}/consumed"

MAX_NAME: Final = 63
MAX_LABEL: Final = 63
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")

NEVER_STARTED: Final = frozenset(
    {Reason.INVALID_CONNECTION, Reason.JOB_NOT_FOUND, Reason.FORBIDDEN, Reason.SUBMISSION_REJECTED}
)
"""With one of these and without a run id nothing was started: a new object repeats nothing."""


@dataclass(frozen=True, slots=True)
class TaskKey:
    """One task instance over all its tries. `map_index` is -1 for a task that is not mapped."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1

    @property
    def digest(self) -> str:
        """32 hexadecimal digits that no other task instance has."""
        text = "\0".join((self.dag_id, self.run_id, self.task_id, str(self.map_index)))
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def selector(self) -> str:
        """The label selector of all its objects."""
        return f"{TASK_INSTANCE}={self.digest}"

    def object_name(self, number: int) -> str:
        """A DNS label of at most 63 characters; the digest makes it unique, the rest is for people."""
        tail = f"-{self.digest[:16]}-{number}"
        mapped = "" if self.map_index < 0 else f"-{self.map_index}"
        room = MAX_NAME - len(tail) - len(mapped)
        readable = _slug(f"{self.dag_id}-{self.task_id}")[:room].strip("-") or "task"
        return f"{readable}{mapped}{tail}"

    def labels(self, number: int) -> dict[str, str]:
        """For people and `kubectl -l`; long or odd ids are shortened, with a digest of the whole."""
        return {
            "app.kubernetes.io/managed-by": "airflow",
            TASK_INSTANCE: self.digest,
            TRY: str(number),
            **{name: label_value(text) for name, text in self.annotations().items()},
        }

    def annotations(self) -> dict[str, str]:
        """The ids as they are; the map index only of a mapped task."""
        ids = {"dag-id": self.dag_id, "run-id": self.run_id, "task-id": self.task_id}
        mapped = {} if self.map_index < 0 else {"map-index": str(self.map_index)}
        return {f"{PREFIX}/{name}": value for name, value in (ids | mapped).items()}


@dataclass(frozen=True, slots=True)
class Try:
    """One try of a task instance. `max_tries` changes when the task is cleared, and only then."""

    key: TaskKey
    number: int
    max_tries: int

    @property
    def consumption(self) -> str:
        """The value of the annotation that says this try used the outcome."""
        return f"{self.number}/{self.max_tries}"

    @property
    def is_last(self) -> bool:
        """Whether Airflow makes no other, unless a person clears the task."""
        return self.number > self.max_tries

    def as_dict(self) -> dict[str, Any]:
        """JSON primitives, for a trigger."""
        return {**asdict(self.key), "try_number": self.number}


def try_of(task_instance: Any) -> Try:
    """The try that a task instance of any Airflow version stands for."""
    map_index = task_instance.map_index
    key = TaskKey(
        task_instance.dag_id, task_instance.run_id, task_instance.task_id, -1 if map_index is None else map_index
    )
    return Try(key, task_instance.try_number, task_instance.max_tries)


def label_value(text: str) -> str:
    """`text` if it is valid as a label's value, else something like it that is."""
    if len(text) <= MAX_LABEL and _LABEL.fullmatch(text):
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    cleaned = re.sub(r"[^A-Za-z0-9_.]+", "-", text)[: MAX_LABEL - 9].strip("-_.")
    return f"{cleaned}-{digest}" if cleaned else digest


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


@dataclass(frozen=True, slots=True)
class Create:
    """Make object `number`.

    `resumes` is the failed run to go on from, `follows` a run to follow instead of starting one.
    """

    number: int
    resumes: int | None = None
    follows: int | None = None


@dataclass(frozen=True, slots=True)
class Attach:
    """It is still going on: take it over."""

    run: TaskRun


@dataclass(frozen=True, slots=True)
class Use:
    """It is over, and Airflow was never told how."""

    run: TaskRun


@dataclass(frozen=True, slots=True)
class Await:
    """It is being cancelled: nothing may start beside it."""

    run: TaskRun


Choice = Create | Attach | Use | Await


def choose(runs: Sequence[TaskRun], attempt: Try, *, from_failure: bool = False) -> Choice:
    """What the try does, by the newest object of its task. `from_failure`: a failed run is resumed, not repeated."""
    newest = max(runs, key=lambda run: run.number, default=None)
    if newest is None:
        return Create(attempt.number)
    following = Create(max(attempt.number, newest.number + 1), resumes=_resumed(newest) if from_failure else None)
    if newest.unwanted:
        return following if newest.final else Await(newest)
    if newest.consumed and newest.consumed_under != attempt.max_tries:
        return following
    if not newest.final:
        return Attach(newest)
    if newest.status.reason == Reason.LOST_CONTACT and newest.run_id is not None:
        return Create(following.number, follows=newest.run_id)
    return Use(newest) if _usable(newest) else following


def _usable(run: TaskRun) -> bool:
    if run.consumed:
        return run.status.phase == Phase.SUCCEEDED
    return run.run_id is not None or run.status.reason not in NEVER_STARTED


def _resumed(run: TaskRun) -> int | None:
    return run.run_id if run.status.phase == Phase.FAILED else None
