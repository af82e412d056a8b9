"""`dbtrun doctor --from-pod`: somebody who may not read the token has dbt Cloud checked by the watcher's own pod."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from tests.cluster.shell import Shell
from tests.node.node import Node
from tests.node.release import SECRET, Release
from tests.stack import JOBS, Own

pytestmark = pytest.mark.asyncio(loop_scope="module")
NAMESPACE: Final = "doctor-pod"
RIGHTS: Final = {
    "dbtruns.dbtrun.dev": "get,list,watch,create,patch,delete",
    "deployments.apps": "get,list",
    "leases.coordination.k8s.io": "get",
    "pods/exec": "get,create",
}


async def asked(shell: Shell, *arguments: str) -> tuple[int, dict[str, str], dict[str, Any]]:
    """The exit code, what is in the way by check, and everything."""
    ended = await shell.types("doctor", "--from-pod", "-o", "json", *arguments)
    report = json.loads(ended.out)
    wrong = {one["check"]: one["message"] for one in report["findings"] if one["verdict"] == "bad"}
    return ended.code, wrong, report


@pytest.mark.timeout(600)
async def test_the_pod_checks_dbt_cloud_for_somebody_who_may_not_read_the_token(node: Node, tmp_path: Path) -> None:
    node.plane.create_namespace_sync(NAMESPACE)
    await node.plane.kubectl("label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    (folder := tmp_path / "release").mkdir()
    async with Release.up(node, NAMESPACE, folder) as release:
        own = Own(release, "first")
        await own.apply()
        await own.reaches("Succeeded")
        await release.kubectl("create", "serviceaccount", "analyst")
        for resource, verbs in RIGHTS.items():
            name = resource.partition(".")[0].replace("/", "-")
            await release.kubectl("create", "role", name, f"--verb={verbs}", f"--resource={resource}")
            await release.kubectl(
                "create", "rolebinding", name, f"--role={name}", f"--serviceaccount={NAMESPACE}:analyst"
            )
        shell = Shell(node.plane, tmp_path, NAMESPACE)
        shell.env["KUBECONFIG"] = str(await node.plane.kubeconfig_for(NAMESPACE, "analyst"))
        journal = await release.journal()

        code, wrong, report = await asked(shell, "--job", str(JOBS["success"]))
        assert (code, wrong) == (0, {}), report
        good = {one["check"] for one in report["findings"] if one["verdict"] == "good"}
        assert {"watcher", "connection", "account", "clock", "job", "filters"} <= good, report
        assert report["requests"] <= 60
        assert release.token not in json.dumps(report)
        assert await release.journal() == journal

        await release.apply(release.secret(SECRET, release.keys("dbtc_of_nobody")))
        code, wrong, report = await asked(shell)
        assert (code, list(wrong)) == (1, ["account"]), report
        assert "the token is refused (401)" in wrong["account"]
        await release.apply(release.secret(SECRET, release.keys()))
        (pod,) = await release.pods()
        assert pod["status"]["containerStatuses"][0]["restartCount"] == 0, "the check does not harm the watcher"
