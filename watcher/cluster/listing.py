"""Complete lists of DbtRuns, page by page: what the mirror starts from and is checked against.

kopf reports neither when its first listing is complete nor what was deleted while its watch was down.
"""

from __future__ import annotations

from typing import Final

import msgspec

from dbtrun.api import API_VERSION, GROUP, PLURAL, DbtRun, Phase
from dbtrun.kube.answers import decode
from dbtrun.kube.errors import NotInstalled, Unreachable
from dbtrun.kube.lists import Items, pages
from dbtrun.kube.paths import api_path
from dbtrun.kube.runs import DbtRuns
from dbtrun.kube.turns import Urgency
from watcher.cluster.access import ClusterAccess
from watcher.cluster.mirror import Unreadable, interpret_json

UNFINISHED: Final = ",".join(f"status.phase!={phase}" for phase in Phase if phase.final)
"""A field selector, for fields that the CRD makes selectable."""
METADATA_ONLY: Final = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
METADATA_LIST: Final = "PartialObjectMetadataList"


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
        NotInstalled: they are not announced.
        KubeError: the API server did not answer.
    """
    groups = decode(await access.request("GET", "/apis", urgency=Urgency.LIST), _Groups).groups
    if all(group.name != GROUP for group in groups):
        raise NotInstalled(f"{GROUP} is not among the API groups")
    resources = decode(await access.request("GET", f"/apis/{API_VERSION}", urgency=Urgency.LIST), _Resources).resources
    if all(resource.name != PLURAL for resource in resources):
        raise NotInstalled(f"{PLURAL} is not in {API_VERSION}")


async def check_list(access: ClusterAccess, namespace: str | None) -> None:
    """Whether DbtRuns can be listed there.

    Raises:
        KubeError: they cannot.
    """
    # kopf keeps asking without a word where it may not list, and this list says why.
    await access.request("GET", _path(namespace), query={"limit": 1}, accept=METADATA_ONLY, urgency=Urgency.LIST)


def list_objects(
    access: ClusterAccess, namespace: str | None, page_size: int, selector: str = ""
) -> Items[DbtRun | Unreadable]:
    """Every DbtRun of a namespace, or of the cluster, that a field selector selects.

    Begun again, it gives some objects twice. What has no identity is left out, and counted.

    Raises:
        Rejected: the CRD does not have the selector's fields.
        KubeError: it cannot be listed, or not to its end.
    """
    return DbtRuns(access, namespace, interpret_json, page=page_size).items(fields=selector)


async def list_versions(access: ClusterAccess, namespace: str | None, page_size: int) -> dict[str, str]:
    """uid → resourceVersion of every DbtRun; metadata only, so it is cheap for large statuses.

    Raises:
        Unreachable: an item has no identity: what is missing is not known to be gone.
        KubeError: as `list_objects`.
    """
    found = pages(access, _path(namespace), {}, kind=METADATA_LIST, most=page_size, accept=METADATA_ONLY)
    listed = Items(found, msgspec.json.Decoder(_Versioned).decode)
    versions = {item.metadata.uid: item.metadata.resource_version async for item in listed}
    if listed.left_out:
        raise Unreachable(f"{listed.left_out} DbtRuns of a list have no uid or resourceVersion")
    return versions


def _path(namespace: str | None) -> str:
    return api_path(f"apis/{API_VERSION}", namespace, PLURAL)
