"""Argo CD's health check in the Lua that Argo CD runs it in."""

from __future__ import annotations

from typing import Any, Final

from lupa.lua51 import LuaRuntime  # Argo CD's gopher-lua is Lua 5.1

from tests.chart.helm import ROOT

SCRIPT: Final = (ROOT / "deploy/argocd/health.lua").read_text()


def health(obj: dict[str, Any]) -> tuple[str, str]:
    """Status and message that Argo CD shows for an object."""
    lua = LuaRuntime()
    lua.globals()["obj"] = lua.table_from(obj, recursive=True)
    told = lua.execute(SCRIPT)
    return told["status"], told["message"]
