"""`python -m tests.hostile --count N --seed S`: a campaign of mutated replies; its last line is its figures as JSON."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys

from tests.hostile.fuzz import campaign


def main() -> int:
    parser = argparse.ArgumentParser(description="Feed mutated replies of dbt Cloud to the watcher's client.")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    fuzz = asyncio.run(campaign(chosen.count, chosen.seed))
    for line in fuzz.untrue[:20]:
        print(line)
    print(json.dumps(fuzz.report))
    return 1 if fuzz.untrue else 0


if __name__ == "__main__":
    sys.exit(main())
