"""Which task and which try: the names, labels and annotations of its objects. Pure.

`Mark` carries what tells one life of a task from the next: Airflow uses a run id again when a DAG run is deleted and
created again, and it counts tries in a way that can come out the same after a person cleared a task.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from airflow_trigger.shared.naming import MAX_NAME
from airflow_trigger.shared.objects import PREFIX
from dbtrun.text import natural
from dbtrun.values import digest, shortened

TASK_INSTANCE: Final = f"{PREFIX}/task-instance"
"""Label: a digest of dag, run, task and map index, exact whatever those contain."""
TRY: Final = f"{PREFIX}/try"
"""Label: the number in the object's name, at least the try that created it."""
WAITING_TRY: Final = f"{PREFIX}/waiting-try"
"""Annotation: the `Mark` of the last try that took the object on."""
CONSUMED: Final = f"{PREFIX}/consumed"
"""Annotation: the `Mark` of the try that reported the outcome to Airflow."""

MAX_LABEL: Final = 63
_LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")


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
        # A NUL is in no id: PostgreSQL stores none. So no two tasks come out as the same text.
        text = "\0".join((self.dag_id, self.run_id, self.task_id, str(self.map_index)))
        return digest(text, 32)

    @property
    def selector(self) -> str:
        """The label selector of all its objects."""
        return f"{TASK_INSTANCE}={self.digest}"

    def object_name(self, number: int) -> str:
        """A DNS label of at most 63 characters; the digest makes it unique, the rest is for people."""
        tail = f"-{self.digest[:16]}-{number}"
        mapped = "" if self.map_index < 0 else f"-{self.map_index}"
        room = MAX_NAME - len(tail) - len(mapped)
        slug = re.sub(r"[^a-z0-9]+", "-", f"{self.dag_id}-{self.task_id}".lower()).strip("-")
        readable = slug[:room].strip("-") or "task"
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
class Mark:
    """A try, and what distinguishes its life of the task from others. An unknown field is None and not compared.

    `max_tries` is what Airflow makes of the tries so far plus `retries` when the task is cleared. `clears` counts the
    clears in the DAG run, of this task and of others. `began` is when the DAG run started: it changes when a DAG run
    that was over is cleared, and when one is created again. `token` is unique to the try.
    """

    number: int
    max_tries: int | None = None
    retries: int | None = None
    clears: int | None = None
    began: str | None = None
    token: str | None = None

    def __str__(self) -> str:
        parts = (self.number, self.max_tries, self.retries, self.clears, self.began, self.token)
        return "/".join("" if part is None else str(part) for part in parts).rstrip("/")

    @classmethod
    def parse(cls, written: str | None) -> Mark:
        """What `str` wrote; fields that are missing or no numbers are not known."""
        parts: list[str | None] = [part or None for part in (written or "").split("/")]
        number, max_tries, retries, clears, began, token, *_ = parts + [None] * 6
        return cls(_whole(number) or 0, _whole(max_tries), _whole(retries), _whole(clears), began, token)

    def in_life_of(self, other: Mark) -> bool:
        """Whether both are tries of one life: nobody cleared the task, or created its DAG run again, in between."""
        if self.number == other.number and self.token is not None and other.token is not None:
            return self.token == other.token
        if _differ(self.began, other.began) or _differ(self.max_tries, other.max_tries):
            return False
        # A clear after `retries` was lowered may come out at the same max_tries.
        counted = self.clears is not None and self.clears == other.clears
        return counted or not _differ(self.retries, other.retries)

    def follows(self, other: Mark) -> bool:
        """Whether this is the same try, or a later one of the same life: in one life the numbers only grow."""
        return self.number >= other.number and self.in_life_of(other)


def _whole(text: str | None) -> int | None:
    return natural(text, digits=18) if text else None


def _differ(one: object, other: object) -> bool:
    return one is not None and other is not None and one != other


@dataclass(frozen=True, slots=True)
class Try:
    """One try of a task instance. `max_tries` is how many Airflow makes after the first, unless somebody clears it."""

    key: TaskKey
    number: int
    max_tries: int
    retries: int | None = None
    clears: int | None = None
    began: str | None = None
    token: str | None = None

    @property
    def mark(self) -> Mark:
        """What it leaves on an object."""
        return Mark(self.number, self.max_tries, self.retries, self.clears, self.began, self.token)

    @property
    def is_last(self) -> bool:
        """Whether Airflow makes no other, unless a person clears the task."""
        return self.number > self.max_tries

    def as_dict(self) -> dict[str, Any]:
        """JSON primitives, for a trigger."""
        return {**asdict(self.key), "try_number": self.number, "mark": str(self.mark)}


def try_of(context: Any, retries: int | None = None) -> Try:
    """The try that the context of any Airflow version stands for. `retries` is the task's own argument."""
    instance, dag_run = context["ti"], context.get("dag_run")
    map_index = -1 if instance.map_index is None else instance.map_index
    return Try(
        TaskKey(instance.dag_id, instance.run_id, instance.task_id, map_index),
        instance.try_number,
        instance.max_tries,
        retries,
        getattr(dag_run, "clear_number", None),
        _moment(getattr(dag_run, "start_date", None)),
        # Airflow 2 has no id of a try; it has the moment at which the try began, which a deferral does not change.
        str(getattr(instance, "id", None) or _moment(instance.start_date) or "") or None,
    )


def _moment(when: datetime | None) -> str | None:
    return None if when is None else when.astimezone(UTC).isoformat(timespec="microseconds")


def is_label(text: str) -> bool:
    """Whether `text` is valid as a label's value."""
    return len(text) <= MAX_LABEL and _LABEL.fullmatch(text) is not None


def label_value(text: str) -> str:
    """`text` if it is valid as a label's value, else something like it that is."""
    if is_label(text):
        return text
    return shortened(text, MAX_LABEL, cut=re.sub(r"[^A-Za-z0-9_.]+", "-", text))
