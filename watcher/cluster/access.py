"""How the watcher reaches the API server: the shared client, the API server's clock, and the same identity for kopf."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from dbtrun.kube.cluster import Cluster
from dbtrun.kube.config import SERVICE_ACCOUNT, Timeouts
from dbtrun.kube.credentials import Credentials, kubeconfig, service_account
from dbtrun.kube.errors import Misconfigured
from watcher.cluster.clock import ClusterClock

if TYPE_CHECKING:
    import kopf

    from dbtrun.kube.library import Configuration

OPTION: Final = "--kubeconfig"


class ClusterAccess(Cluster):
    """The one client of this process. Made by `load`, inside a running event loop; closed by `close`."""

    def __init__(self, credentials: Credentials, timeouts: Timeouts | None = None) -> None:
        self.clock = ClusterClock()
        """The API server's."""
        super().__init__(credentials, timeouts=timeouts)

    def heard(self, date: str | None, sent: float, received: float) -> None:
        """Sets the clock by a reply."""
        self.clock.heard(date, sent, received)

    @classmethod
    async def load(
        cls,
        path: Path | None = None,
        context: str | None = None,
        *,
        timeouts: Timeouts | None = None,
        folder: Path = SERVICE_ACCOUNT,
        environ: Mapping[str, str] = os.environ,
    ) -> Self:
        """Reaches the API server by the kubeconfig at `path`, else as the pod's ServiceAccount, which `folder` holds.

        Raises:
            Misconfigured: neither is there, or it cannot be used.
        """
        if path is not None:
            credentials = _usable_by_kopf(kubeconfig(path, context))
        elif context is not None:
            raise Misconfigured(f"The context {context!r} needs a kubeconfig: name its file too.")
        else:
            credentials = service_account(OPTION, folder, environ)
        access = cls(credentials, timeouts)
        await access.open()
        return access

    async def another(self) -> ClusterAccess:
        """A client of its own for another event loop, with the same identity.

        Raises:
            Misconfigured: it cannot be read any more.
        """
        access = ClusterAccess(self._credentials, self.timeouts)
        await access.open()
        return access

    async def kopf_login(self) -> kopf.ConnectionInfo:
        """The same identity for kopf, read again: kopf asks when its token is refused.

        Raises:
            Misconfigured: it cannot be read any more.
        """
        import kopf  # late: see `kopf_thread`

        now = await self._credentials.read()
        # The generated client keeps the header's value there as a whole: "Bearer" and the token.
        scheme, _, token = now.api_key.get("BearerToken", "").partition(" ")
        return kopf.ConnectionInfo(
            server=str(now.host),
            ca_path=now.ssl_ca_cert,
            insecure=not now.verify_ssl,
            scheme=scheme or None,
            token=token or None,
            certificate_path=now.cert_file,
            private_key_path=now.key_file,
            proxy_url=now.proxy,
        )


def _usable_by_kopf(credentials: Credentials) -> Credentials:
    async def checked() -> Configuration:
        now = await credentials.read()
        # kopf's ConnectionInfo has no field for it. Its watch would fail at each handshake, long after the start looked
        # well.
        if now.tls_server_name:
            raise Misconfigured(f"The {credentials.where} sets tls-server-name, which kopf cannot use.")
        return now

    return replace(credentials, read=checked)
