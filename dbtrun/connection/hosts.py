"""The hosts that connections may name. Light: the command line's help needs it in every installation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

HOST_NAME: Final = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
DBT_HOSTS: Final = ("getdbt.com", "dbt.com")
"""dbt Cloud's own: its cells and single-tenant deployments are below these."""
ANY_HOST: Final = "*"


@dataclass(frozen=True, slots=True)
class Hosts:
    """The hosts that connections may name.

    Without this limit, anyone who may create Secrets could choose where the watcher connects.
    """

    suffixes: tuple[str, ...] = DBT_HOSTS
    """Domains, each with everything below it; `*`: any host."""
    loopback: bool = False
    """Whether a connection may name this machine, and then by http: the simulator runs there in tests."""

    def allow(self, name: str) -> bool:
        """Whether it is one of these domains or below one."""
        return any(suffix == ANY_HOST or name == suffix or name.endswith(f".{suffix}") for suffix in self.suffixes)
