"""How kopf identifies itself to an API server.

A module of its own, as `kopf_operator` imports kopf, and `kopf_thread` must not before the first list is read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import kopf

IDENTITY: Final = "dbtrun"
"""Unused without peering. By default kopf asks for the user's name, and a container's uid often has none."""

Login = Callable[[], Awaitable["kopf.ConnectionInfo"]]
