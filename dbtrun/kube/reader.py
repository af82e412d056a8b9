"""Tells the watcher that somebody reads a run's steps as they come."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any

from dbtrun.api.watched import renewal
from dbtrun.kube.errors import Denial, KubeError


class Reader:
    """Somebody who reads the steps of runs in one namespace.

    Reading continues even if the request fails; the steps then change less often.

    Args:
        patch: merges a body into the DbtRun of a name; raises KubeError.
    """

    def __init__(self, patch: Callable[[str, Mapping[str, Any]], Awaitable[object]]) -> None:
        self._patch = patch
        self.may_ask = True
        """False: Kubernetes refused it, as the role only allows to look."""

    async def ask(self, name: str, annotations: Mapping[str, str], now: datetime) -> None:
        """Asks for fresh steps, unless somebody has done so a moment ago. Never raises KubeError.

        Args:
            name: of the DbtRun.
            annotations: the object's.
            now: by the API server's clock, as far as it is known.
        """
        body = renewal(annotations, now)
        if body is None or not self.may_ask:
            return
        try:
            await self._patch(name, body)
        except Denial:
            self.may_ask = False
        except KubeError:
            pass  # the next look asks again
