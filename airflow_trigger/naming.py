"""Names that Kubernetes takes, from the ids that Airflow and dbt Cloud use."""

from __future__ import annotations

import hashlib
import re
from typing import Final

DEFAULT_CONN_ID: Final = "dbt_cloud_default"
"""The provider's default connection: here it means the watcher's default connection."""
MAX_NAME: Final = 63
"""Characters: such a name is also valid as a label value."""

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def connection_name(conn_id: str) -> str | None:
    """The Secret that an Airflow connection id stands for; None for the watcher's default connection.

    Raises:
        ValueError: no Secret can have such a name.
    """
    if conn_id == DEFAULT_CONN_ID:
        return None
    name = conn_id.lower().replace("_", "-")
    if len(name) > 253 or not _SUBDOMAIN.fullmatch(name):
        raise ValueError(
            f"conn_id {conn_id!r} cannot name a connection Secret: use letters, digits, '-', '_' and '.', "
            "with a letter or digit at both ends"
        )
    return name


def adopted_name(run_id: int, connection: str | None) -> str:
    """The name of the DbtRun that follows a run which exists already: the same wherever it is computed."""
    name = f"run-{run_id}" if connection is None else f"run-{run_id}-{connection}"
    if len(name) <= MAX_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: MAX_NAME - 9].rstrip('-.')}-{digest}"
