"""A thousand mutated replies in each test run; `make hostile COUNT=100000` for more."""

from __future__ import annotations

import json

from tests.hostile.fuzz import campaign

COUNT = 1_000
BLOCK = 1_000
"""Milliseconds of the event loop: four times what a campaign by itself may show."""


async def test_no_mutated_reply_gets_out_of_its_connection() -> None:
    fuzz = await campaign(COUNT, seed=20261126)
    print(json.dumps(fuzz.report))
    assert fuzz.replies >= COUNT
    assert not fuzz.untrue
    assert fuzz.outcomes["answer"] > COUNT / 10, "some replies stay readable"
    assert fuzz.outcomes["ServerFault"] > COUNT / 10, "some do not"
    assert fuzz.report["longest_block_ms"] < BLOCK
