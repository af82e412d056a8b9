"""Asking for fresh steps never disturbs who reads them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dbtrun.api import WATCHED_ANNOTATION
from dbtrun.kube.errors import Conflict, Forbidden, KubeError, NotFound, Rejected, Unreachable
from dbtrun.kube.reader import Reader

NOW = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)


class Patched:
    """What the API server was sent, and what it answers."""

    def __init__(self, *errors: KubeError) -> None:
        self.errors = list(errors)
        self.bodies: list[tuple[str, Mapping[str, Any]]] = []

    async def __call__(self, name: str, body: Mapping[str, Any]) -> object:
        self.bodies.append((name, body))
        if self.errors:
            raise self.errors.pop(0)
        return None


async def test_one_write_a_minute_is_enough() -> None:
    patched = Patched()
    reader, annotations = Reader(patched), dict[str, str]()
    for second in range(0, 180, 5):
        await reader.ask("nightly", annotations, NOW + timedelta(seconds=second))
        annotations = dict(patched.bodies[-1][1]["metadata"]["annotations"])
    assert [name for name, _ in patched.bodies] == ["nightly"] * 3


async def test_who_may_not_patch_asks_once_and_reads_on() -> None:
    patched = Patched(Forbidden("not for you"))
    reader = Reader(patched)
    for _ in range(3):
        await reader.ask("nightly", {}, NOW)
    assert (len(patched.bodies), reader.may_ask) == (1, False)


@pytest.mark.parametrize("error", [NotFound("gone"), Conflict("two met"), Unreachable("away"), Rejected("a webhook")])
async def test_any_other_trouble_passes(error: KubeError) -> None:
    patched = Patched(error)
    reader = Reader(patched)
    await reader.ask("nightly", {}, NOW)
    await reader.ask("nightly", {WATCHED_ANNOTATION: "2026-01-05T12:01:00Z"}, NOW)
    assert (len(patched.bodies), reader.may_ask) == (2, True)
