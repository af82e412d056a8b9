# ruff: noqa: INP001 - docs is a folder of pages, not a package
"""The watcher's settings as a page: flag, variable, Helm value, unit, default and reason of each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import Field, fields
from typing import Final

import yaml

from docs import chart
from watcher.settings import ENV_PREFIX, Settings, flag

HEAD: Final = """\
# Settings of the watcher

`docs/generate.py` generates this page from `watcher/settings.py` and the chart: change those files instead.

Each setting of `dbtrun watcher` is a flag or an environment variable; a flag has precedence. The chart sets the
variables of the watcher's container: change the Helm value instead of the variable where there is one. For the other
settings, use `extraEnv`. A value that cannot be used stops the watcher at its start, with one sentence that names the
setting.

"""
ENVIRONMENT: Final = """

## Other variables

"""
COLUMNS: Final = ("Flag and variable", "Helm value", "Unit", "Default", "Meaning", "Why this default")
BY_OTHER_VALUES: Final = {
    "namespaces": "`watchNamespaces`, `watchAllNamespaces`",
    "connection_secret": "`connection.existingSecret` (`dbt-cloud`)",
    "connection_namespaces": "`connection.namespaces`",
    "connection_projects": "`connection.projects`",
    "listen": "`port` (`8080`, on every address of the pod)",
    "webhooks_listen": "`webhooks.enabled`, `webhooks.port` (`8081`, on every address of the pod)",
    "lease_name": "the release's name, or `fullnameOverride`",
}
"""Settings that the chart chooses by values with names of their own."""
WITHOUT_A_VALUE: Final = frozenset({"connection_dir", "kubeconfig", "context", "leader_election"})
"""Settings that the chart leaves at their defaults."""
OTHER_VARIABLES: Final = (
    (
        "`POD_NAMESPACE`",
        "set by the chart",
        "The watcher's own namespace. Without it: that of its ServiceAccount, else `default`.",
    ),
    ("`POD_NAME`", "set by the chart", "The beginning of the holder's name in the Lease. Without it: the host's name."),
    (
        "`POD_IP`",
        "set by the chart",
        "The address to which other watchers forward webhooks; the watcher writes it into the Lease. Without it: the "
        "host of `--webhooks-listen`, if that is an address.",
    ),
    (
        "`HTTPS_PROXY`, `NO_PROXY`",
        "`proxy.https`, `proxy.noProxy`",
        "A proxy for requests to dbt Cloud. Requests to the Kubernetes API never use it.",
    ),
    (
        "`SSL_CERT_FILE`",
        "`caBundle`",
        "A file with the certificate authorities to trust for dbt Cloud and the proxy, instead of the public ones.",
    ),
)


def rows() -> Iterator[tuple[str, ...]]:
    """A row for each setting, in the order of the code."""
    of_the_chart = {_snake_case(name): name for name in _chart_settings()}
    for setting in fields(Settings):
        yield (
            f"`{flag(setting.name)}` `{ENV_PREFIX}{setting.name.upper()}`",
            _helm_value(setting.name, of_the_chart),
            _unit(setting),
            _default(setting.default),
            setting.metadata["doc"],
            setting.metadata["why"],
        )


def _helm_value(name: str, of_the_chart: dict[str, str]) -> str:
    if name in of_the_chart:
        return f"`settings.{of_the_chart[name]}`"
    return "" if name in WITHOUT_A_VALUE else BY_OTHER_VALUES[name]


def _chart_settings() -> dict[str, object]:
    found: dict[str, object] = yaml.safe_load((chart.CHART / "values.yaml").read_text())["settings"]
    return found


def _snake_case(name: str) -> str:
    return re.sub(r"(?=[A-Z])", "_", name).lower()


def _unit(setting: Field[object]) -> str:
    return "true or false" if isinstance(setting.default, bool) else str(setting.metadata["unit"])


def _default(value: object) -> str:
    if value == "":
        return "empty"
    return (
        f"`{value:g}`" if isinstance(value, float) else f"`{str(value).lower() if isinstance(value, bool) else value}`"
    )
