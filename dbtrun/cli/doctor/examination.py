"""What `dbtrun check` looks at: dbt Cloud, through a connection of the watcher, with its settings and certificates."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import certifi

from dbtrun.api import CONNECTION_SECRET_TYPE
from dbtrun.cli.cluster import Place, connected
from dbtrun.cli.dbtcloud import DbtCloud
from dbtrun.cli.doctor import dbt_checks, dbt_facts, record
from dbtrun.cli.doctor.cluster_checks import hosts_in, missing_secret, secret_keys
from dbtrun.cli.doctor.cluster_facts import Absent, Asker, SecretFacts, Unknown, read_secret
from dbtrun.cli.doctor.finding import Finding, Told, Verdict, bad
from dbtrun.connection.secret import parse_connection
from dbtrun.kube.config import own_namespace
from dbtrun.kube.errors import KubeError

# Less than the 115 s of the `doctor` that waits for it, so that it can still report.
TOTAL_SECONDS: Final = 100.0
"""For everything: the process ends by itself if the one that started it is gone."""
KEYS: Final = ("token", "account-id", "host", "ca.crt")
SECRET: Final = "DBTRUN_CONNECTION_SECRET"  # noqa: S105 - the name of a variable
FOLDER: Final = "DBTRUN_CONNECTION_DIR"


async def examined(where: tuple[str, str] | None, job_id: int | None, mirrored: Sequence[int], *, start: bool) -> Told:
    """What dbt Cloud is like through this connection.

    Args:
        where: namespace and name of the Secret; None: the watcher's default connection.
        job_id: the job that the user wants to run, if it is known.
        mirrored: jobs that mirrors select.
        start: whether to start, find and cancel a run of that job.
    """
    try:
        async with asyncio.timeout(TOTAL_SECONDS), connected(as_watcher(os.environ)) as (api, _):
            asker = Asker(api)
            secret = await _secret(asker, where, os.environ)
            hosts = hosts_in(os.environ)
            about = secret if isinstance(secret, Finding) else secret_keys(secret, hosts)
            if isinstance(secret, Finding) or about.verdict is not Verdict.GOOD:
                return Told((about,), asker.requests)
            async with DbtCloud(parse_connection(secret.data, "", hosts), trusted(os.environ)) as cloud:
                facts = await dbt_facts.gather(cloud, job_id, datetime.now(UTC), start=start, selected=mirrored)
            if api.offset is None:  # the connection was in files: this only compares the clocks
                await asker.json("GET", "/version")
            findings = (about, *dbt_checks.findings(facts, api.offset))
            return Told(findings, asker.requests + facts.requests, record.scenario(facts, findings))
    except TimeoutError:
        slow = f"dbt Cloud and the API server took more than {TOTAL_SECONDS:.0f} s in all."
        return Told((bad("account", slow, "Check the network of the watcher's pod."),))
    except KubeError as error:
        message = f"The watcher's pod cannot use the API server: {str(error).rstrip('.')}."
        return Told((bad("connection", message, "Check the network policies and the ServiceAccount of the watcher."),))


def as_watcher(environ: Mapping[str, str]) -> Place:
    """The cluster as the watcher reaches it: by its kubeconfig if it has one, else as its ServiceAccount."""
    return Place(environ.get("DBTRUN_KUBECONFIG") or None, environ.get("DBTRUN_CONTEXT") or None)


def trusted(environ: Mapping[str, str]) -> ssl.SSLContext:
    """The certificates that the watcher trusts where a connection names none: httpx chooses them so."""
    if environ.get("SSL_CERT_FILE"):
        return ssl.create_default_context(cafile=environ["SSL_CERT_FILE"])
    if environ.get("SSL_CERT_DIR"):
        return ssl.create_default_context(capath=environ["SSL_CERT_DIR"])
    return ssl.create_default_context(cafile=certifi.where())


async def _secret(asker: Asker, where: tuple[str, str] | None, environ: Mapping[str, str]) -> SecretFacts | Finding:
    """The connection's keys, or why there are none."""
    if where is None and environ.get(FOLDER):
        files = [file for key in KEYS if (file := Path(environ[FOLDER], key)).is_file()]
        return SecretFacts(
            "", environ[FOLDER], CONNECTION_SECRET_TYPE, {file.name: file.read_bytes() for file in files}
        )
    if where is None and not environ.get(SECRET):
        return bad("connection", "The watcher has no default connection.", "Name a Secret with --connection.")
    namespace, name = where or (environ.get("POD_NAMESPACE") or own_namespace(), environ[SECRET])
    match await read_secret(asker, namespace, name):
        case SecretFacts() as secret:
            return secret
        case Absent():
            return missing_secret(namespace, name)
        case Unknown(why=why):
            return bad(
                "connection",
                f"The watcher cannot read the Secret {namespace}/{name}: {why.rstrip('.')}.",
                "Add its namespace to the Helm value secretNamespaces.",
            )
