"""Complete lists of DbtRuns, page by page: what the mirror starts from and is checked against.

kopf tells neither when its first listing is complete nor what was deleted while its watch was down.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import msgspec

from dbtrun.api import API_VERSION, GROUP, PLURAL, DbtRun, Phase
from watcher.cluster.access import JSON, ClusterAccess, api_path
from watcher.cluster.errors import ApiTrouble, Expired, NotServed, decode
from watcher.cluster.mirror import Unreadable, interpret_json
from watcher.cluster.turns import Urgency

UNFINISHED: Final = ",".join(f"status.phase!={phase}" for phase in Phase if phase.final)
"""A field selector, for fields that the CRD makes selectable."""
METADATA_ONLY: Final = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
FIRST_PAGE: Final = 20
"""Objects: an object can be larger than a megabyte, and nobody knows before the first page."""
PAGE_BYTES: Final = 2_000_000
"""What a page shall have: it is read in well under a second."""
TRIES: Final = 3
"""A list is begun again when its continue token expired, which happens to one that takes five minutes."""


class _ListMeta(msgspec.Struct):
    token: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None  # null when a metadata-only list is empty


class _Identity(msgspec.Struct, rename="camel"):
    uid: str
    resource_version: str


class _Versioned(msgspec.Struct):
    metadata: _Identity


class _Named(msgspec.Struct):
    name: str


class _Groups(msgspec.Struct):
    groups: list[_Named]


class _Resources(msgspec.Struct):
    resources: list[_Named]


async def check_discovery(access: ClusterAccess) -> None:
    """Whether kopf will find DbtRuns: it asks once, and a server that just started may list them and not announce them.

    Raises:
        NotServed: they are not announced.
        ApiTrouble: nobody can tell.
    """
    groups = decode(await access.request("GET", "/apis", urgency=Urgency.LIST), _Groups).groups
    if all(group.name != GROUP for group in groups):
        raise NotServed(f"{GROUP} is not among the API groups")
    resources = decode(await access.request("GET", f"/apis/{API_VERSION}", urgency=Urgency.LIST), _Resources).resources
    if all(resource.name != PLURAL for resource in resources):
        raise NotServed(f"{PLURAL} is not in {API_VERSION}")


async def check_list(access: ClusterAccess, namespace: str | None) -> None:
    """Whether DbtRuns can be listed there.

    Raises:
        ApiTrouble: they cannot.
    """
    await access.request("GET", _path(namespace), query={"limit": 1}, accept=METADATA_ONLY, urgency=Urgency.LIST)


async def list_objects(
    access: ClusterAccess, namespace: str | None, page_size: int, selector: str = ""
) -> AsyncIterator[DbtRun | Unreadable]:
    """Every DbtRun of a namespace, or of the cluster, that a field selector selects.

    Begun again, it gives some objects twice.

    Raises:
        Refused: the CRD does not have the selector's fields.
        ApiTrouble: it cannot be listed, or not to its end.
    """
    async for raw in _list(access, namespace, page_size, JSON, selector):
        yield interpret_json(raw)


async def list_versions(access: ClusterAccess, namespace: str | None, page_size: int) -> dict[str, str]:
    """uid → resourceVersion of every DbtRun; metadata only, so it is cheap for large statuses.

    Raises:
        ApiTrouble: as `list_objects`.
    """
    found: dict[str, str] = {}
    async for raw in _list(access, namespace, page_size, METADATA_ONLY):
        item = msgspec.json.decode(raw, type=_Versioned).metadata
        found[item.uid] = item.resource_version
    return found


async def _list(
    access: ClusterAccess, namespace: str | None, page_size: int, accept: str, selector: str = ""
) -> AsyncIterator[msgspec.Raw]:
    for _ in range(TRIES):
        try:
            async for raw in _pages(access, namespace, page_size, accept, selector):
                yield raw
        except Expired:
            continue
        return
    raise ApiTrouble(f"The list of {PLURAL} expired {TRIES} times before its end.")


async def _pages(
    access: ClusterAccess, namespace: str | None, page_size: int, accept: str, selector: str
) -> AsyncIterator[msgspec.Raw]:
    token, limit = "", min(FIRST_PAGE, page_size)
    selected = {"fieldSelector": selector} if selector else {}
    while True:
        query: dict[str, str | int] = {"limit": limit} | selected | ({"continue": token} if token else {})
        answer = await access.request("GET", _path(namespace), query=query, accept=accept, urgency=Urgency.LIST)
        page = decode(answer, _Page)
        limit = next_limit(limit, len(answer), page_size)
        for raw in page.items or ():
            yield raw
        if not (token := page.metadata.token):
            return


def next_limit(limit: int, size: int, most: int) -> int:
    """How many objects the next page shall have, after `limit` objects came in `size` bytes."""
    fitting = limit * PAGE_BYTES // max(size, 1)
    return max(1, min(fitting, 4 * limit, most))


def _path(namespace: str | None) -> str:
    return api_path(f"apis/{API_VERSION}", namespace, PLURAL)
