"""Credentials: as the pod's ServiceAccount, or by a kubeconfig that was named; read again when they are renewed.

Nothing is read unless it was named, neither `~/.kube/config` nor `$KUBECONFIG`: a triggerer serves many people, and a
watcher that silently acts on the cluster of the user who started it does harm.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from dbtrun.kube.config import SERVICE_ACCOUNT, ClusterConfig
from dbtrun.kube.errors import Misconfigured, short
from dbtrun.kube.library import Configuration, config

logger = logging.getLogger(__name__)

REREAD_KUBECONFIG: Final = 300.0
"""Seconds after which a kubeconfig is read again: shorter than any common token's life (EKS: 15 minutes)."""

Read = Callable[[], Awaitable[Configuration]]


@dataclass(frozen=True)
class Credentials:
    """Where the API server and the identity are written down. `where` is for sentences, as "kubeconfig x"."""

    where: str
    read: Read
    """Reads the configuration from its files. Raises Misconfigured."""


def credentials(access: ClusterConfig) -> Credentials:
    """The credentials that `access` names."""
    if access.config_file is None:
        return service_account("config_file (the default ones are never read)")
    return kubeconfig(Path(access.config_file), access.context)


def service_account(
    option: str, folder: Path = SERVICE_ACCOUNT, environ: Mapping[str, str] = os.environ
) -> Credentials:
    """Those of the pod's ServiceAccount.

    Args:
        option: what names a kubeconfig instead, for the sentence that is shown outside of a pod.
    """

    async def read() -> Configuration:
        now = Configuration()
        try:
            # It reads a rotated token by itself, every minute.
            config.load_incluster_config(  # type: ignore[no-untyped-call]
                now,
                token_filename=str(folder / "token"),
                cert_filename=str(folder / "ca.crt"),
                environ=dict(environ),
            )
        except (config.ConfigException, OSError, ValueError) as error:
            raise Misconfigured(
                f"Cannot reach a cluster: this is not a pod with a ServiceAccount ({short(str(error)).rstrip('.')}); "
                f"outside of a pod, name a kubeconfig with {option}."
            ) from error
        return now

    return Credentials("pod's ServiceAccount", read)


def kubeconfig(path: Path, context: str | None) -> Credentials:
    """Those of a kubeconfig."""

    async def read() -> Configuration:
        if not await asyncio.to_thread(lambda: path.expanduser().is_file()):
            raise Misconfigured(f"The kubeconfig {path} does not exist or is not a file.")
        now = Configuration()
        try:
            # persist_config would write refreshed tokens into the file, which may be read-only or belong to somebody
            # else.
            await config.load_kube_config(str(path), context, now, persist_config=False)
        except Exception as error:  # whatever a malformed kubeconfig makes its reader raise
            raise unusable(str(path), error) from error
        now.refresh_api_key_hook = _Reread(read)
        return now

    return Credentials(f"kubeconfig {path}", read)


def unusable(files: str, error: Exception) -> Misconfigured:
    """The error for a kubeconfig whose reader raised this."""
    # A parser quotes the text around its error, which may be a token.
    match error:
        case yaml.MarkedYAMLError(problem_mark=yaml.Mark() as mark):
            reason = f"it is not YAML (line {mark.line + 1})"
        case config.ConfigException():
            reason = short(str(error)).rstrip(".")
        case OSError():
            reason = error.strerror or type(error).__name__
        case _:
            reason = "it is not a kubeconfig: clusters, users or contexts are missing"
    return Misconfigured(f"The kubeconfig {files} cannot be used: {reason}.")


class _Reread:
    """Keeps a token from a kubeconfig (a file, a plugin) fresh. Called by kubernetes_asyncio before each request."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._due = time.monotonic() + REREAD_KUBECONFIG
        self._lock = asyncio.Lock()

    async def __call__(self, configuration: Configuration) -> None:
        async with self._lock:
            if time.monotonic() < self._due:
                return
            # Before the read, which may fail: a plugin that fails is not started again for each request.
            self._due = time.monotonic() + REREAD_KUBECONFIG
            try:
                configuration.api_key = (await self._read()).api_key
            except Misconfigured as error:
                logger.warning("The credentials could not be read again; the previous ones stay in use: %s", error)
