"""The one reader of DbtRuns and DbtRunMirrors: list, watch, get, create, patch. Each caller decodes what it needs."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Generic, Protocol, TypeVar

from dbtrun.api import API_VERSION, KIND, PLURAL
from dbtrun.api.mirrors import MIRROR_KIND, MIRROR_PLURAL
from dbtrun.kube.answers import Read, one
from dbtrun.kube.errors import Conflict, Unreachable
from dbtrun.kube.lists import Items, Page, Requests, pages
from dbtrun.kube.paths import api_path
from dbtrun.kube.turns import Urgency
from dbtrun.kube.watch import Added, Progress, Removed, Stored, Stream, lines, read_change

T = TypeVar("T")
S = TypeVar("S", bound=Stored)

PREFIX: Final = f"apis/{API_VERSION}"
STRICT: Final = {"fieldValidation": "Strict"}
"""The API server refuses a field that the installed CRD does not have, instead of dropping it silently."""
WATCH_SECONDS: Final = 300
"""The server ends a watch after this time, so that the watches spread over the API servers."""


class Streams(Requests, Protocol):
    """What is needed of a cluster to watch."""

    def stream(
        self, path: str, query: Mapping[str, str | int], silence_seconds: float
    ) -> AbstractAsyncContextManager[Stream]: ...


class DbtRuns(Generic[T]):
    """The DbtRuns of a namespace, or of all, as `read` makes them of JSON; a subclass names another kind.

    Every method raises KubeError of the kind that says what can be done.

    Args:
        page: most objects that are read in one go: the event loop stands still meanwhile.
    """

    plural = PLURAL
    kind = KIND

    def __init__(self, requests: Requests, namespace: str | None, read: Read[T], *, page: int = 100) -> None:
        self._requests = requests
        self._namespace = namespace
        self._read = read
        self._page = page

    def items(self, *, fields: str = "") -> Items[T]:
        """Those that the selector matches, as they come."""
        return Items(self._pages("", fields), self._read)

    async def snapshot(self, *, labels: str = "", fields: str = "") -> tuple[Sequence[T], str]:
        """Those that the selectors match, all at one version, and the version."""
        return await Items(self._pages(labels, fields), self._read).snapshot()

    async def list(self, labels: str = "", fields: str = "") -> Sequence[T]:
        """Those that the selectors match. One that cannot be read is left out with a warning."""
        found, _ = await self.snapshot(labels=labels, fields=fields)
        return found

    async def get(self, name: str) -> T:
        """One of them, as it is now."""
        return one(await self._requests.request("GET", self._path(name)), self._read, self.kind)

    async def create(self, body: Mapping[str, Any]) -> T:
        """A new one.

        Raises:
            AlreadyExists: the name is taken.
            Rejected: the installed CRD does not know a field.
            Unreachable: the API server was busy with something else, or did not answer.
        """
        try:
            answer = await self._requests.request("POST", self._path(), query=STRICT, body=body)
        except Conflict as error:
            # The server was in the middle of something else, as counting a ResourceQuota.
            raise Unreachable(str(error)) from error
        return one(answer, self._read, self.kind)

    async def patch(
        self,
        name: str,
        body: Mapping[str, Any],
        *,
        sub: str | None = None,
        strict: bool = True,
        urgency: Urgency = Urgency.OTHER,
    ) -> T:
        """Merges `body` into it, or into its `sub` resource; Conflict if it carries a resourceVersion that is stale.

        Args:
            strict: False: a field that the installed CRD does not know is dropped, and the answer lacks it.
        """
        # A merge patch needs no read before it, and leaves alone what a newer CRD has and this release does not know.
        path, query = api_path(PREFIX, self._namespace, self.plural, name, sub), STRICT if strict else None
        return one(
            await self._requests.request("PATCH", path, query=query, body=body, urgency=urgency), self._read, self.kind
        )

    async def watch(
        self: DbtRuns[S], streams: Streams, version: str, *, fields: str, silence_seconds: float
    ) -> AsyncGenerator[Added[S] | Removed[S] | Progress]:
        """Changes after `version` to those that `fields` selects, until the server ends the watch as planned.

        It is Unreachable after so many seconds without a word; the server sends a bookmark each minute.
        """
        query: dict[str, str | int] = {
            "watch": "true",
            "resourceVersion": version,
            # Without bookmarks, a quiet watch would look like a connection whose other end is gone.
            "allowWatchBookmarks": "true",
            "timeoutSeconds": WATCH_SECONDS,
            **_selection("", fields),
        }
        async with streams.stream(self._path(), query, silence_seconds) as stream:
            async for line in lines(stream):
                change = read_change(line, self._read)
                if change is not None:
                    yield change

    def _pages(self, labels: str, fields: str) -> AsyncIterator[Page]:
        return pages(self._requests, self._path(), _selection(labels, fields), kind=f"{self.kind}List", most=self._page)

    def _path(self, name: str | None = None) -> str:
        return api_path(PREFIX, self._namespace, self.plural, name)


class DbtRunMirrors(DbtRuns[T]):
    """The DbtRunMirrors of a namespace, or of all."""

    plural = MIRROR_PLURAL
    kind = MIRROR_KIND


def _selection(labels: str, fields: str) -> dict[str, str]:
    given = {"labelSelector": labels, "fieldSelector": fields}
    return {key: value for key, value in given.items() if value}
