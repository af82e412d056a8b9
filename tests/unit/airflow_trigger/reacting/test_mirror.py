"""What a DbtRunMirror says of its deleted DbtRuns, and how it is asked."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from airflow_trigger.reacting.mirror import Mirror, MirrorHistory
from airflow_trigger.reacting.position import OVERLAP
from airflow_trigger.reacting.selection import plan_of
from dbtrun.api import MIRROR_LABEL
from dbtrun.api.mirrors import MIRROR_PLURAL
from tests.unit.airflow_trigger.reacting.test_position import NOON
from tests.unit.airflow_trigger.reacting.test_selection import GIVEN
from tests.unit.world.apiserver import ApiServer, Refused, listening

HOUR = timedelta(hours=1)
NOW = NOON + 3 * HOUR
OLD = {"metadata": {"creationTimestamp": (NOON - HOUR).isoformat()}}


def at(moment: datetime) -> dict[str, Any]:
    return OLD | {"status": {"prunedThrough": moment.isoformat()}}


def living(seconds: float | None) -> dict[str, Any]:
    return OLD | {"spec": {"template": {"ttlSecondsAfterFinished": seconds}}}


@pytest.mark.parametrize(
    ("mirror", "spans"),
    [
        (OLD, True),
        (at(NOON - HOUR), True),
        (at(NOON - OVERLAP / 2), False),
        (at(NOON + HOUR), False),
        (living(None), True),
        (living(4 * 3600), True),
        (living(3 * 3600 + 60), False),
        (living(60), False),
        ({"metadata": {"creationTimestamp": (NOON + HOUR).isoformat()}}, False),
        ({"metadata": OLD["metadata"] | {"deletionTimestamp": NOW.isoformat()}}, False),
    ],
)
def test_nothing_is_gone_if_neither_the_limits_nor_the_ttl_took_it(mirror: dict[str, Any], spans: bool) -> None:
    assert msgspec.convert(mirror, Mirror).spans(NOON, NOW) is spans


async def told(folder: Path, labels: dict[str, str], *, refused: bool = False, there: bool = True) -> tuple[bool, int]:
    """The answer, and the number of requests."""
    server = ApiServer()
    if there:
        await server.put(MIRROR_PLURAL, "orders", OLD, namespace="data")
    if refused:
        server.plan("GET", MIRROR_PLURAL, Refused(403, "Forbidden"))
    async with listening(folder, server.serve) as config:
        plan = plan_of(GIVEN | {"labels": labels, "config_file": str(config)})
        return await MirrorHistory(plan).spans(NOON, NOW), len(server.asked)


async def test_the_mirror_that_the_labels_name_is_asked(tmp_path: Path) -> None:
    assert await told(tmp_path, {MIRROR_LABEL: "orders"}) == (True, 1)


async def test_runs_that_are_not_of_one_mirror_have_no_history(tmp_path: Path) -> None:
    assert await told(tmp_path, {"team": "a"}) == (False, 0)


@pytest.mark.parametrize("fault", [{"refused": True}, {"there": False}])
async def test_a_mirror_that_cannot_be_read_shows_nothing(
    tmp_path: Path, fault: dict[str, bool], caplog: pytest.LogCaptureFixture
) -> None:
    assert await told(tmp_path, {MIRROR_LABEL: "orders"}, **fault) == (False, 1)
    assert "orders" in caplog.text
