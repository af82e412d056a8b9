"""What a DbtRunMirror knows of its DbtRuns that are gone.

Without it, an asset whose runs are rare is told of a gap after each longer pause: no older DbtRun shows that none was
deleted. Only a selection that names its mirror can be answered: any other DbtRun may have had a TTL of its own.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import msgspec

from airflow_trigger.reacting.position import OVERLAP
from dbtrun.api import MIRROR_LABEL
from dbtrun.api.mirrors import Template
from dbtrun.api.views import View
from dbtrun.kube.connect import leased
from dbtrun.kube.errors import KubeError
from dbtrun.kube.runs import DbtRunMirrors

if TYPE_CHECKING:
    from airflow_trigger.reacting.selection import Plan
    from dbtrun.kube.lists import Requests

log = logging.getLogger(__name__)


class _Meta(View, frozen=True, kw_only=True):
    creation_timestamp: datetime
    deletion_timestamp: datetime | None = None


class _Template(View, frozen=True, kw_only=True):
    ttl_seconds_after_finished: int | None = Template().ttl_seconds_after_finished


class _Spec(View, frozen=True, kw_only=True):
    template: _Template = _Template()


class _Status(View, frozen=True, kw_only=True):
    pruned_through: datetime | None = None


class Mirror(View, frozen=True, kw_only=True):
    """A DbtRunMirror as far as the deletion of its DbtRuns goes."""

    metadata: _Meta
    spec: _Spec = _Spec()
    status: _Status = _Status()

    def spans(self, since: datetime, now: datetime) -> bool:
        """Whether it still has all its DbtRuns that became final after `since`, but for those that people deleted.

        The overlap is for clocks that differ: `since` is by the triggerer's, the others by the watcher's.
        """
        ttl, pruned = self.spec.template.ttl_seconds_after_finished, self.status.pruned_through
        return (
            self.metadata.deletion_timestamp is None
            # With one of the same name that was there before, its DbtRuns have gone.
            and self.metadata.creation_timestamp < since - OVERLAP
            and (pruned is None or pruned < since - OVERLAP)
            and (ttl is None or now - since < timedelta(seconds=ttl) - OVERLAP)
        )


_READ: Final = msgspec.json.Decoder(Mirror).decode


class MirrorHistory:
    """Asks the mirror that the selection names."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    async def spans(self, since: datetime, now: datetime) -> bool:
        """Whether no selected DbtRun is gone that ended after `since`. False also if the mirror cannot be read."""
        name = dict(self._plan.selection.labels).get(MIRROR_LABEL)
        if not name:
            return False
        try:
            async with leased(self._plan.config) as cluster:
                return (await read_mirror(cluster, self._plan.namespace, name)).spans(since, now)
        except KubeError as error:
            log.warning(
                "A gap is reported to asset %r, because DbtRunMirror %s cannot be read: %s",
                self._plan.asset,
                name,
                error,
            )
            return False


async def read_mirror(requests: Requests, namespace: str, name: str) -> Mirror:
    """A DbtRunMirror as it is now.

    Raises:
        KubeError: it cannot be read.
    """
    return await DbtRunMirrors(requests, namespace, _READ).get(name)
