"""Logs with secrets in them: what a status would show of each holds none. `make hostile` reads ten thousand."""

from __future__ import annotations

import os
from typing import Final

from dbtrun.api.status import MAX_LOG_TAIL
from dbtrun.scrub import log_tail
from tests.unit.lifecycle.planter import Planter, shown_parts

LOGS: Final = int(os.environ.get("LOGS", "1000"))


def test_no_planted_secret_gets_through_in_thousands_of_logs() -> None:
    through = []
    for seed in range(LOGS):
        secrets, log = Planter(seed).log()
        tail = log_tail(log, MAX_LOG_TAIL)
        through += [(seed, secret, tail) for secret in secrets if shown_parts(secret, tail)]
    assert not through, f"{len(through)} got through, the first: {through[0]}"
