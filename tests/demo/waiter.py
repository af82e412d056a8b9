"""What a triggerer does, alone: wait for one DbtRun and print the TriggerEvent's payload as one line of JSON."""

from __future__ import annotations

import asyncio
import json
import sys
import time

from airflow_trigger.trigger import DbtRunTrigger


async def wait(name: str, namespace: str, kubeconfig: str) -> None:
    trigger = DbtRunTrigger(
        conn_id="dbt_cloud_default",
        run_id=None,
        end_time=time.time() + 120,
        poll_interval=5,
        account_id=None,
        name=name,
        namespace=namespace,
        config_file=kubeconfig,
    )
    async for event in trigger.run():
        print(json.dumps(event.payload), flush=True)


if __name__ == "__main__":
    asyncio.run(wait(*sys.argv[1:4]))
