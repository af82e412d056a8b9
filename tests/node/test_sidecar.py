"""The watcher beside Airflow's triggerer, in pods as the values for Airflow's official chart make them."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio

from dbtrun.api import API_VERSION, PLURAL
from tests.controlplane import CommandError
from tests.node import Node, images
from tests.node.beside import ACCOUNT, SIDECAR, TRIGGERER, Beside, pod_of, state_of
from tests.stack import dbt_run, until
from tests.stack.stack import SECRET

pytestmark = pytest.mark.asyncio(loop_scope="session")

SPY: Final = Path(__file__).with_name("spy.py").read_text()
FORBIDDEN: Final = 403
MERGE: Final = "application/merge-patch+json"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def beside(node: Node, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Beside]:
    """Two triggerers, each with a watcher beside it, in a namespace that admits restricted pods only."""
    async with Beside.up(node, "beside", tmp_path_factory.mktemp("beside")) as beside:
        await beside.start(replicas=2)
        await beside.ready()
        await beside.until_held()
        yield beside


async def spied(beside: Beside, pod: str, container: str) -> dict[str, Any]:
    """What code in a container finds in files and may ask of the API server."""
    here = f"/api/v1/namespaces/{beside.namespace}"
    runs = f"/apis/{API_VERSION}/namespaces/{beside.namespace}/{PLURAL}"
    tries = {
        "list DbtRuns": ["GET", runs],
        "read the connection": ["GET", f"{here}/secrets/{SECRET}"],
        "read the watcher's token": ["GET", f"{here}/secrets/dbtrun-token"],
        "list Secrets": ["GET", f"{here}/secrets"],
        "ask for a token of the watcher": [
            "POST",
            f"{here}/serviceaccounts/dbtrun/token",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
        ],
        "write a status": ["PATCH", f"{runs}/written/status", {"status": {"phase": "Succeeded"}}, MERGE],
        "enter a pod": ["POST", f"{here}/pods/{pod}/exec?command=true&container={SIDECAR}"],
    }
    found: dict[str, Any] = json.loads(await beside.exec(pod, container, "python", "-c", SPY, json.dumps(tries)))
    return found


async def test_the_pods_are_ready_where_only_restricted_pods_are_admitted(beside: Beside) -> None:
    assert [pod["status"]["phase"] for pod in await beside.pods()] == ["Running"] * 2
    for pod in await beside.pods():
        assert {state_of(pod, name)["ready"] for name in (TRIGGERER, SIDECAR)} == {True}
    with pytest.raises(CommandError, match="violates PodSecurity"):
        await beside.kubectl("run", "lax", f"--image={images.WATCHER}")


async def test_code_in_the_triggerer_reaches_neither_a_dbt_token_nor_a_status(beside: Beside) -> None:
    await beside.apply(dbt_run("written", "endless"))
    pod = (await beside.pods())[0]["metadata"]["name"]
    found = await spied(beside, pod, TRIGGERER)
    answers = found["answers"]
    assert answers.pop("list DbtRuns") == 200, "its own token works"
    assert answers == dict.fromkeys(answers, FORBIDDEN)
    assert found["dbt tokens"] == []
    assert list(found["identities"]) == [f"system:serviceaccount:{beside.namespace}:{ACCOUNT}"]


async def test_the_sidecar_has_an_identity_of_its_own(beside: Beside) -> None:
    """The same look from inside of the sidecar finds what the triggerer must not: so it would have been seen."""
    pod = (await beside.pods())[0]["metadata"]["name"]
    found = await spied(beside, pod, SIDECAR)
    assert list(found["identities"]) == [f"system:serviceaccount:{beside.namespace}:dbtrun"]
    reached = found["answers"]["read the connection"] == 200 or found["dbt tokens"]
    assert reached, "the watcher itself must have the connection"
    assert found["answers"]["list DbtRuns"] == 200


async def test_one_watcher_acts_and_the_others_stand_by(beside: Beside) -> None:
    holder = pod_of(await beside.until_held())
    await beside.apply(dbt_run("one"))
    await beside.reaches("one", "Succeeded")
    logs = {
        pod["metadata"]["name"]: await beside.kubectl("logs", pod["metadata"]["name"], "-c", SIDECAR)
        for pod in await beside.pods()
    }
    assert [name for name, log in logs.items() if "Submitting (Claimed)" in log] == [holder]
    (other,) = logs.keys() - {holder}
    assert re.findall(r'"message": ?"(Waiting for the Lease|Watching)', logs[other])[-1:] == ["Waiting for the Lease"]


async def test_the_triggerer_ends_first_and_then_the_watcher_lets_go(beside: Beside) -> None:
    holder = await beside.until_held()
    said = await beside.last_words(pod_of(holder))
    order = ["triggerer stops", "triggerer ends", "Stopping: work in progress", "Not holding the Lease"]
    assert [words for line in said for words in order if words in line] == order, said
    assert (await beside.until_held()) != holder
    await beside.ready()


async def test_a_standby_ends_at_once_too(beside: Beside) -> None:
    holder = pod_of(await beside.until_held())
    (standby,) = {pod["metadata"]["name"] for pod in await beside.pods()} - {holder}
    said = await beside.last_words(standby)
    assert "Stopping: work in progress" in said[-1]
    assert pod_of(await beside.until_held()) == holder
    await beside.ready()


@pytest.mark.parametrize("missing", ["rolebinding/dbtrun", "secret/dbtrun-token", "secret/dbt-cloud"])
async def test_a_broken_watcher_does_not_keep_the_triggerer_from_starting(
    node: Node, tmp_path: Path, missing: str
) -> None:
    async with Beside.up(node, f"without-{missing.rpartition('-')[2].replace('/', '-')}", tmp_path) as beside:
        await beside.kubectl("delete", missing)
        await beside.start()

        async def runs() -> bool:
            pods = await beside.pods()
            return bool(pods and state_of(pods[0], TRIGGERER).get("state", {}).get("running"))

        await until(runs, 60, "the triggerer runs", pause=0.3)
