"""The cluster of the user's kubeconfig, chosen as kubectl chooses it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from dbtrun.cli.words import ahead
from dbtrun.kube.cluster import Cluster
from dbtrun.kube.config import Timeouts, own_namespace
from dbtrun.kube.credentials import Credentials, kubeconfig, service_account, unusable
from dbtrun.kube.errors import Misconfigured
from dbtrun.kube.library import Configuration, config

TIMEOUTS: Final = Timeouts(connect=10.0, total=20.0)


@dataclass(frozen=True)
class Place:
    """Which cluster and namespace a command is about; None: as the kubeconfig says."""

    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None


def kubeconfigs(place: Place, environ: Mapping[str, str] = os.environ, home: Path | None = None) -> str | None:
    """The kubeconfig files, as KUBECONFIG lists them. None: there is none, so this may be a pod.

    Raises:
        Misconfigured: none of those that are named is there.
    """
    named = place.kubeconfig or environ.get("KUBECONFIG")
    if not named:
        usual = (home or Path.home()) / ".kube/config"
        return str(usual) if usual.is_file() else None
    present = [file for file in named.split(os.pathsep) if Path(file).expanduser().is_file()]
    if not present:
        raise Misconfigured(f"The kubeconfig {named} does not exist.")
    return os.pathsep.join(present)


@asynccontextmanager
async def connected(place: Place) -> AsyncIterator[tuple[Api, str]]:
    """The cluster and the namespace, as long as they are needed.

    Raises:
        Misconfigured: there is no kubeconfig, or it cannot be used.
    """
    files = kubeconfigs(place)
    if files is None:
        namespace = own_namespace()
    else:
        try:
            contexts, active = await asyncio.to_thread(config.list_kube_config_contexts, files)
        except Exception as error:  # whatever a malformed kubeconfig makes its reader raise
            raise unusable(files, error) from error
        chosen = next((one for one in contexts if one["name"] == place.context), active) or {}
        namespace = chosen.get("context", {}).get("namespace") or "default"
    async with Api(_credentials(files, place.context)) as api:
        yield api, place.namespace or namespace


class Api(Cluster):
    """The API server of the kubeconfig, and how its clock differs from that of this machine."""

    def __init__(self, credentials: Credentials) -> None:
        super().__init__(credentials, timeouts=TIMEOUTS)
        self.offset: float | None = None
        """Seconds by which the API server's clock is ahead; None: not known."""

    @property
    def now(self) -> datetime:
        """The present by the API server's clock, or by this machine's as long as that is not known."""
        return datetime.now(UTC) + timedelta(seconds=self.offset or 0.0)

    def heard(self, date: str | None, sent: float, received: float) -> None:
        """Compares the clocks by a reply."""
        began = datetime.now(UTC) - timedelta(seconds=time.monotonic() - sent)
        self.offset = ahead(date, began, received - sent)


def _credentials(files: str | None, context: str | None) -> Credentials:
    if files is None:
        return service_account("--kubeconfig or KUBECONFIG")
    if os.pathsep not in files:
        return kubeconfig(Path(files), context)

    # Several files are merged as kubectl merges them: only the library's own loader does that.
    async def read() -> Configuration:
        configuration = Configuration()
        try:
            await config.load_kube_config(files, context, configuration, persist_config=False)
        except Exception as error:  # as above
            raise unusable(files, error) from error
        return configuration

    return Credentials(f"kubeconfig {files}", read)
