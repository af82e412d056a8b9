"""A process that competes for a Lease and says on each line when, on the machine's clock, it believed to lead."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from watcher.cluster.access import ClusterAccess
from watcher.cluster.leader import Leader, LeaseSettings


async def main(kubeconfig: str, namespace: str) -> None:
    # Its errors go to the same file, and on a busy machine a renewal gets no answer in time.
    logging.disable(logging.CRITICAL)
    access = await ClusterAccess.load(Path(kubeconfig))
    leader = Leader(access, namespace, "watcher", settings=LeaseSettings(duration=3, renew_deadline=2.0, retry=0.3))
    task = asyncio.create_task(leader.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    while not task.done():
        now = time.monotonic()
        if leader.is_leader():
            print(now, flush=True)
        await asyncio.sleep(0.01)
    with suppress(asyncio.CancelledError):
        await task
    await access.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
