"""Lists, page by page. One item that cannot be read does not hide the others."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from dbtrun.kube.answers import FOREIGN, JSON, Read, decode
from dbtrun.kube.errors import UNREADABLE, Expired, TooLarge, Unreachable, short
from dbtrun.kube.turns import Urgency

T = TypeVar("T")
log = logging.getLogger(__name__)

FIRST_PAGE: Final = 20
"""Objects: an object can be larger than a megabyte, and nobody knows before the first page."""
PAGE_BYTES: Final = 2_000_000
"""What a page should have: it is read in well under a second."""
TRIES: Final = 3
"""A list is begun again when its continue token expired, which happens to one that takes five minutes."""


class Requests(Protocol):
    """What is needed of a cluster to read. Raises KubeError of the kind that says what can be done."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int] | None = None,
        body: object = None,
        accept: str = JSON,
        urgency: Urgency | None = Urgency.OTHER,
    ) -> bytes: ...


class _Meta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct):
    metadata: _Meta
    items: list[msgspec.Raw] | None  # null when a metadata-only list is empty
    kind: str = ""


class Page(msgspec.Struct, frozen=True):
    """Some items of a list at `version`. After a `first` page, what came before it comes again."""

    items: list[msgspec.Raw]
    version: str
    first: bool


async def pages(
    requests: Requests, path: str, selection: Mapping[str, str], *, kind: str, most: int, accept: str = JSON
) -> AsyncIterator[Page]:
    """All pages of a list, begun again when its continue token expired.

    Args:
        selection: the query's selectors.
        kind: of the list, as `DbtRunList`.
        most: objects of a page; a page of large objects has fewer.

    Raises:
        Unreachable: it is not such a list, or it expired again and again.
        KubeError: as of a request.
    """
    token, limit, expired = "", min(FIRST_PAGE, most), 0
    while expired < TRIES:
        query: dict[str, str | int] = {"limit": limit, **selection, **({"continue": token} if token else {})}
        try:
            answer = await requests.request("GET", path, query=query, accept=accept, urgency=Urgency.LIST)
        except TooLarge:
            # Smaller pages do not help here: this one object alone is larger than a reply may be.
            if limit == 1:
                raise
            limit = max(1, limit // 4)
            continue
        except Expired:
            token, limit, expired = "", min(FIRST_PAGE, most), expired + 1
            continue
        listed = decode(answer, _List)
        # An empty list of another kind would pass for one of ours, and that would mean that every DbtRun was deleted.
        if listed.kind not in ("", kind):
            raise Unreachable(f"{FOREIGN}: a {short(listed.kind)} is not a {kind}")
        yield Page(listed.items or [], listed.metadata.resource_version, first=not token)
        limit, token = next_limit(limit, len(answer), most), listed.metadata.continue_
        if not token:
            return
    raise Unreachable(f"the list expired {TRIES} times before its end")


def next_limit(limit: int, size: int, most: int) -> int:
    """How many objects the next page shall have, after `limit` objects came in `size` bytes."""
    fitting = limit * PAGE_BYTES // max(size, 1)
    # Four times as many at most: the objects of a small page may have been small by chance.
    return max(1, min(fitting, 4 * limit, most))


class Items(Generic[T]):
    """The items of a list, read one by one. `left_out` counts those that cannot be read; their number is logged."""

    def __init__(self, found: AsyncIterator[Page], read: Read[T]) -> None:
        self._pages = found
        self._read = read
        self._reason = ""
        self.left_out = 0

    async def __aiter__(self) -> AsyncIterator[T]:
        """As they come. A list that is begun again gives some of them twice."""
        async for page in self._pages:
            for item in self._readable(page):
                yield item
        self._log()

    async def snapshot(self) -> tuple[list[T], str]:
        """All of them, each once, and the version of the list.

        Raises:
            KubeError: as of `pages`.
        """
        items: list[T] = []
        version = ""
        async for page in self._pages:
            if page.first:
                items.clear()
            items.extend(self._readable(page))
            version = page.version
        self._log()
        return items, version

    def _readable(self, page: Page) -> Iterator[T]:
        for raw in page.items:
            try:
                item = self._read(raw)
            except UNREADABLE as error:
                self.left_out += 1
                self._reason = short(str(error))
            else:
                yield item

    def _log(self) -> None:
        if self.left_out:
            log.warning("%d DbtRuns cannot be read and are left out, one because: %s", self.left_out, self._reason)
