"""Copies the files that were asked for from dbt Cloud to the cluster. A failure becomes a sentence in the status."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, NamedTuple, Self

from dbtrun.api import Artifact, DbtRun
from dbtrun.api.status import MAX_PROBLEM
from dbtrun.kube.errors import Denial, Forbidden, KubeError, QuotaExceeded, Rejected
from dbtrun.text import clean
from watcher.dbtcloud.errors import DbtCloudError, TooLarge
from watcher.lifecycle.decisions import KeepArtifacts
from watcher.lifecycle.keeping import MAX_BYTES, config_map_name, key_of
from watcher.lifecycle.known import KeepTry

Fetch = Callable[[str, int], Awaitable[bytes | None]]
"""Reads a file of the run, of at most so many bytes. Raises DbtCloudError; TooLarge if it has more."""
Store = Callable[[str, Mapping[str, bytes]], Awaitable[None]]
"""Puts files, by key, into a ConfigMap. Raises KubeError when it did not."""

MISSING: Final = "dbt Cloud has no such file of this run."
NO_RIGHT: Final = 'is forbidden: User "'
"""How RBAC begins, in the API server's words. A quota refuses with the same status."""


LASTING: Final = (Denial, Rejected, QuotaExceeded)
"""Refusals that do not pass while a run's end waits for its files."""


class Lack(NamedTuple):
    """Why a file is not kept, and whether that may pass."""

    problem: str
    again: bool

    @classmethod
    def refused(cls, error: KubeError, namespace: str) -> Self:
        """The API server did not store the file."""
        if not isinstance(error, Forbidden):
            return cls(f"It could not be stored: {error}", again=not isinstance(error, LASTING))
        if NO_RIGHT not in str(error):
            return cls(f"It could not be stored: {error}", again=False)
        return cls(
            f"The watcher may not keep files in the namespace {namespace}: the chart's values artifacts.enabled and "
            "artifacts.namespaces give the right.",
            again=False,
        )


async def keep(
    decision: KeepArtifacts,
    run: DbtRun,
    before: KeepTry | None,
    fetch: Fetch,
    store: Store,
    mono: Callable[[], float],
) -> KeepTry:
    """Fetches and stores files, and reports the outcome for each. It raises no error of either side."""
    earlier = {artifact.path: artifact for artifact in (before.artifacts if before else ())}
    # The files of an earlier try count too: all of them share one ConfigMap.
    room = MAX_BYTES - sum(artifact.bytes or 0 for artifact in earlier.values())
    files, lacks = await _fetched(decision.paths, fetch, room)
    name = config_map_name(run)
    try:
        if files:
            # All together: a ConfigMap that is written file by file would be written again and again.
            await store(name, {key_of(path): content for path, content in files.items()})
    except KubeError as error:
        lacks |= dict.fromkeys(files, Lack.refused(error, run.metadata.namespace))
    told = earlier | {path: Artifact(path=path, problem=clean(one.problem, MAX_PROBLEM)) for path, one in lacks.items()}
    for path in files.keys() - lacks.keys():
        told[path] = Artifact(path=path, config_map=name, key=key_of(path), bytes=len(files[path]))
    return KeepTry(
        run_id=decision.run_id,
        at=mono(),
        tries=before.tries + 1 if before else 1,
        artifacts=tuple(told[path] for path in run.spec.artifacts),
        again=any(lack.again for lack in lacks.values()),
    )


async def _fetched(paths: Iterable[str], fetch: Fetch, room: int) -> tuple[dict[str, bytes], dict[str, Lack]]:
    """The files that there is room for, and why the others are lacking, by path."""
    files: dict[str, bytes] = {}
    lacks: dict[str, Lack] = {}
    for path in paths:
        try:
            content = await fetch(path, room)
        except TooLarge:
            # Not tried again: at the next try there is no more room.
            words = f"It is too large: {room:,} of the {MAX_BYTES:,} bytes for a run's files were left."
            lacks[path] = Lack(words, again=False)
        except DbtCloudError as error:
            lacks[path] = Lack(error.message, again=True)
        else:
            if content is None:
                lacks[path] = Lack(MISSING, again=True)
            else:
                files[path], room = content, room - len(content)
    return files, lacks
