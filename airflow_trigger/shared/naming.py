"""Names that Kubernetes takes, from the ids that Airflow and dbt Cloud use."""

from __future__ import annotations

import re
from typing import Final

from airflow_trigger.failures import InvalidArgument
from airflow_trigger.shared.arguments import shown, text
from dbtrun.values import shortened

DEFAULT_CONN_ID: Final = "dbt_cloud_default"
"""The provider's default connection: here it means the watcher's default connection."""
MAX_NAME: Final = 63
"""Characters: such a name is also valid as a label value."""

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def namespace_name(value: object) -> str | None:
    """A namespace; None: none was given.

    Raises:
        InvalidArgument: no namespace can have such a name.
    """
    name = text("namespace", value)
    if name is not None and not _LABEL.fullmatch(name):
        raise InvalidArgument(
            f"namespace {shown(name)} cannot name a namespace: use lower-case letters, digits and '-', at most 63, "
            "with a letter or digit at both ends"
        )
    return name


def object_name(argument: str, value: object) -> str | None:
    """The name of a Kubernetes object; None: none was given.

    Raises:
        InvalidArgument: no object can have such a name; the sentence names `argument`.
    """
    name = text(argument, value)
    if name is not None and (len(name) > 253 or not _SUBDOMAIN.fullmatch(name)):
        raise InvalidArgument(
            f"{argument} {shown(name)} cannot name a Kubernetes object: use lower-case letters, digits, '-' and '.', "
            "with a letter or digit at both ends"
        )
    return name


def connection_name(argument: str, value: object) -> str | None:
    """The Secret that an Airflow connection id stands for; None for the watcher's default connection.

    Raises:
        InvalidArgument: no Secret can have such a name; the sentence names `argument`.
    """
    conn_id = "" if value == "" else text(argument, value)
    if conn_id is None or conn_id == DEFAULT_CONN_ID:
        return None
    # Airflow's ids have what names in Kubernetes must not have: capital letters and `_`.
    name = conn_id.lower().replace("_", "-")
    if len(name) > 253 or not _SUBDOMAIN.fullmatch(name):
        raise InvalidArgument(
            f"{argument} {shown(conn_id)} cannot name a connection Secret: use letters, digits, '-', '_' and '.', "
            "with a letter or digit at both ends"
        )
    return name


def adopted_name(run_id: int, connection: str | None) -> str:
    """The name of the DbtRun that follows a run which exists already: the same wherever it is computed."""
    name = f"run-{run_id}" if connection is None else f"run-{run_id}-{connection}"
    return shortened(name, MAX_NAME)
