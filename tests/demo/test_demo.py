from __future__ import annotations

import json

from tests.demo.__main__ import main


async def test_the_demo_ends_with_the_event_of_a_success() -> None:
    event = json.loads(await main())
    assert (event["status"], event["name"]) == ("success", "nightly")
