"""Whether the CRD that the API server serves has all that this release reads and writes.

The API server drops what its CRD does not have, from specs and from statuses, and says so to nobody but the client.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final, NoReturn

import msgspec

from dbtrun.api import API_VERSION, GROUP, KIND, PLURAL, VERSION
from dbtrun.api.fields import lacking
from dbtrun.kube.answers import decode
from dbtrun.kube.errors import KubeError
from watcher.cluster.access import ClusterAccess

logger = logging.getLogger(__name__)

PATH: Final = f"/openapi/v3/apis/{API_VERSION}"
"""Everybody who may use the API server may read it: it needs no right to read CRDs."""
COMPLETE_SECONDS: Final = 600.0
"""Between two looks while nothing is missing."""
LACKING_SECONDS: Final = 30.0
"""The same while something is: somebody may be about to upgrade the CRD."""
KINDS: Final = "x-kubernetes-group-version-kind"


class _Components(msgspec.Struct):
    schemas: dict[str, dict[str, Any]]


class _Document(msgspec.Struct):
    components: _Components


class ServedCrd:
    """What the served CRD lacks, reported once."""

    def __init__(self, access: ClusterAccess) -> None:
        self._access = access
        self.missing: frozenset[str] = frozenset()
        """Fields and values of this release that the API server does not take."""

    async def run(self) -> NoReturn:
        """Compares at the start and from time to time, until cancelled."""
        while True:
            try:
                await self.check()
            except KubeError as error:
                logger.info("The served CRD could not be read: %s", error)
            await asyncio.sleep(LACKING_SECONDS if self.missing else COMPLETE_SECONDS)

    async def check(self) -> None:
        """Compares once.

        Raises:
            KubeError: the API server does not show it.
        """
        served = decode(await self._access.request("GET", PATH), _Document).components.schemas.values()
        wanted = {"group": GROUP, "version": VERSION, "kind": KIND}
        schema = next((one for one in served if wanted in one.get(KINDS, ())), None)
        if schema is not None:  # else there is no CRD, which listing DbtRuns reports
            self._found(lacking(schema))

    def dropped(self, fields: frozenset[str]) -> None:
        """The answer to a write lacked these, which is noticed sooner than by the next look."""
        # Added to what is known: one write shows only the fields that it has.
        self._found(self.missing | fields)

    def warning(self) -> str | None:
        """For an object that is taken on, as its spec may have said more than is left of it; None: it has not."""
        specs = sorted(name for name in self.missing if name.startswith("spec."))
        if not specs:
            return None
        return (
            f"The CRD {PLURAL}.{GROUP} is older than the watcher and lacks {', '.join(specs)}: if the manifest of this"
            " object sets any of them, the API server has dropped it. Upgrade the CRD, then create the object again."
        )

    def _found(self, missing: frozenset[str]) -> None:
        # Only what is new: the look is repeated, and the log would say the same every half a minute.
        if missing - self.missing:
            logger.warning(
                "The CRD %s.%s is older than this watcher: the API server drops %s. Upgrade the CRD (the chart with"
                " crds.enabled=true, or deploy/crd); the watcher continues in the meantime.",
                PLURAL,
                GROUP,
                ", ".join(sorted(missing)),
            )
        elif self.missing and not missing:
            logger.info("The CRD %s.%s has all fields of this release now.", PLURAL, GROUP)
        self.missing = missing
