"""The steps of a live run in the task's log, as they come: for tasks that ask for it with `log_steps`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from dbtrun.api import Phase
from dbtrun.kube.errors import KubeError
from dbtrun.kube.reader import Reader
from dbtrun.text import one_line

if TYPE_CHECKING:
    from airflow_trigger.task.run import TaskRun
    from airflow_trigger.task.runs import TaskRuns

LOOK_SECONDS: Final = 5.0
"""Between two looks at the object of one task."""
LOOKS_PER_SECOND: Final = 5.0
"""Of all tasks of this process together: where many ask, each sees its steps later."""
MAX_NAME: Final = 200

_telling: Final[set[object]] = set()
"""Those that log steps in this process."""


class StepNews:
    """What of a run's steps was not logged yet. Pure."""

    def __init__(self) -> None:
        self._run_id: int | None = None
        self._told: dict[int, str] = {}

    def of(self, run: TaskRun) -> Iterator[str]:
        """A line for each step that is new, or has changed."""
        if run.run_id != self._run_id:
            self._run_id, self._told = run.run_id, {}
        for step in run.status.steps:
            if self._told.get(step.index) != step.status:
                self._told[step.index] = step.status
                yield f"Step {step.index}: {one_line(step.name, MAX_NAME)}: {one_line(step.status, MAX_NAME)}"


async def tell_steps(runs: TaskRuns, name: str, say: Callable[[str], object]) -> None:
    """Says what becomes of the steps of a DbtRun, until it is cancelled."""
    news, reader = StepNews(), Reader(runs.patch)
    _telling.add(news)
    try:
        while True:
            try:
                run = await runs.get(name)
            except KubeError:
                pass  # the wait for the run's end deals with it
            else:
                for line in news.of(run):
                    say(line)
                await ask(reader, run)
            await asyncio.sleep(max(LOOK_SECONDS, len(_telling) / LOOKS_PER_SECOND))
    finally:
        _telling.discard(news)


async def ask(reader: Reader, run: TaskRun) -> None:
    """Asks for fresh steps of a run that has some: a write to one that is being started could delay the start."""
    if run.status.phase == Phase.RUNNING:
        await reader.ask(run.name, run.metadata.annotations, datetime.now(UTC))
