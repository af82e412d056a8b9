"""Finding jobs by their names, and what a list of runs must be like to prove that there is no run.

"Not found" lets a second run start, so it must never come from a list that dbt Cloud ordered otherwise than asked.
"""

from __future__ import annotations

import asyncio
import difflib
import heapq
import itertools
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Final

from dbtrun.api import Job
from dbtrun.text import clean
from watcher.dbtcloud import wire
from watcher.dbtcloud.budget import Priority
from watcher.dbtcloud.channel import Channel, Page
from watcher.dbtcloud.errors import JobNotFound, ServerFault

MAX_NAMED_PAGES: Final = 50
"""Pages of projects, environments or jobs looked through for a name: 5,000."""
MAX_COMPARED: Final = 50
"""Names that are compared with one that does not exist: comparing all of them takes minutes."""
MAX_COMPARED_NAME: Final = 60
"""Characters that are compared."""
SIMILAR_NAMES: Final = 3
"""Names proposed for one that does not exist."""
SIMILARITY: Final = 0.5
"""How much of a proposed name must agree, as difflib counts it (0 to 1)."""
MAX_NAME: Final = 100
"""Characters of a name in a message."""


def prove_newest_first(page: Page[wire.Run], reached: float = math.inf) -> float:
    """Refuses a list in another order, or one that stands still: the search would end before it saw every run.

    Args:
        reached: the oldest id of the page before.

    Returns:
        The oldest id of this page.

    Raises:
        ServerFault: `order_by` or `offset` was ignored.
    """
    ids = [run.id for run in page.items] or [-1]
    if ids[-1] >= reached or any(later >= earlier for earlier, later in itertools.pairwise(ids)):
        raise ServerFault(f"{page.received.request} did not answer newest first, so nothing can be concluded from it")
    return ids[-1]


async def find_job(channel: Channel, job: Job) -> int:
    """The id of the job with exactly these names.

    Raises:
        JobNotFound: a name has no match or several; the message says which.
    """
    project = await _find_named(channel, "project", job.project, "projects/", {}, "v3")
    environments = f"projects/{project}/environments/"
    # Projects and environments are in version 3 of the API only, jobs in version 2.
    environment = await _find_named(channel, "environment", job.environment, environments, {}, "v3")
    within = {"project_id": project, "environment_id": environment}
    return await _find_named(channel, "job", job.name, "jobs/", within, "v2")


async def _find_named(
    channel: Channel, kind: str, name: str | None, path: str, within: Mapping[str, int], version: str
) -> int:
    if not name:
        raise JobNotFound("`spec.job` needs `id`, or `name`, `project` and `environment` together", final=True)
    params = {key: str(value) for key, value in within.items()}
    # `name__icontains` is documented for jobs and projects. Where it is ignored, the list is longer, and the names are
    # compared here all the same.
    listed = _named(channel, path, {**params, "name__icontains": name}, version)
    ids = [item.id async for item in listed if item.name == name and item.within(within)]
    if len(ids) > 1:
        raise JobNotFound(f"dbt Cloud has {len(ids)} {kind}s named {_quoted(name)}: use `spec.job.id`", final=True)
    if not ids:
        others = _named(channel, path, params, version)
        # Cut at once: 5,000 names can have 10 kB each.
        names = [(other.name or "")[: MAX_NAME + 1] async for other in others if other.within(within)]
        raise JobNotFound(await asyncio.to_thread(_no_such, kind, name, names), final=True)
    return ids[0]


async def _named(channel: Channel, path: str, params: Mapping[str, str], version: str) -> AsyncIterator[wire.Named]:
    pages = 0
    async for page in channel.pages(path, params, wire.NAMED, Priority.SUBMIT, version):
        for item in page.items:
            if not item.deleted:
                yield item
        pages += 1
        if pages >= MAX_NAMED_PAGES:
            return


def _no_such(kind: str, name: str, known: Sequence[str]) -> str:
    """The sentence. It compares at most MAX_COMPARED names: those that have the most characters in common."""
    wanted = set(name.casefold())
    near = heapq.nsmallest(MAX_COMPARED, known, key=lambda other: len(wanted ^ set(other[:MAX_NAME].casefold())))
    shown = {other[:MAX_COMPARED_NAME]: other for other in near}
    similar = difflib.get_close_matches(name[:MAX_COMPARED_NAME], shown, n=SIMILAR_NAMES, cutoff=SIMILARITY)
    hint = f": did you mean {', '.join(_quoted(shown[cut]) for cut in similar)}?" if similar else ""
    return f"dbt Cloud has no {kind} named {_quoted(name)} that the token may see{hint}"


def _quoted(name: str) -> str:
    return f'"{clean(name, MAX_NAME)}"'
