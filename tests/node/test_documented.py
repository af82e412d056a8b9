"""What README.md and docs/install.md tell people to type, typed in a namespace that takes restricted Pods only."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from dbtrun.api import KIND
from tests.node.documents import Terminal, blocks, commands, introduction, section
from tests.node.handover import pace
from tests.node.node import Node
from tests.stack import Own, Site, install_crd, until

pytestmark = pytest.mark.asyncio(loop_scope="module")
CRDS: Final = ("dbtruns.dbtrun.dev", "dbtrunmirrors.dbtrun.dev")
ENDLESS: Final = 2
SCENARIO: Final[dict[str, Any]] = {
    "account": {"id": 12345},
    "projects": [{"name": "Analytics", "environments": [{"name": "Production"}]}],
    "jobs": [
        {"id": 98765, "name": "nightly", "queue": 0.5, "start": 0.5, "run": 5},
        {"id": ENDLESS, "name": "endless", "queue": 0.1, "start": 0.1, "run": None, "parallel": True},
    ],
}  # fmt: skip
PLACEHOLDER: Final = "nightly-x7k2p"
README_SECONDS: Final = 60.0
"""From `helm install` to the end of a run of six seconds."""
FIRST_START_SECONDS: Final = 10.0
"""From the connection's Secret to the first start."""


class Reader(Site):
    """Somebody who follows the documentation, with the simulator in place of dbt Cloud."""

    terminal: Terminal

    async def watchers_said(self) -> str:
        return await self.kubectl("get", "dr", "-oyaml") + await self.kubectl("logs", "deployment/dbtrun", "--tail=40")

    async def types(self, command: str) -> str:
        """The command as it stands, but that the simulator takes dbt Cloud's place: its address and its CA."""
        command = command.replace("host=cloud.getdbt.com", f"host={self.url}")
        if "create secret" in command:
            command += " --from-file=ca.crt"
        if "helm install" in command:
            command += f" --set=settings.connectionHosts={urlsplit(self.url).hostname}"
        return await self.terminal.run(command)

    async def live(self, name: str) -> Own:
        own = Own(self, name)
        await own.apply(None, job={"id": ENDLESS})
        await own.reaches("Running")
        return own

    async def stays(self) -> set[str]:
        """What there is of DbtRun in the namespace, and the CRD."""
        kinds = "deployments,pods,services,serviceaccounts,roles,rolebindings,leases"
        found = await self.kubectl("get", kinds, "-oname")
        crd = await self.kubectl("get", "crd", *CRDS, "-oname", "--ignore-not-found")
        return {line for line in (found + crd).splitlines() if "dbtrun" in line}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reader(node: Node, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Reader]:
    """In a cluster without the CRD, with an empty namespace `data`."""
    plane, folder = node.plane, tmp_path_factory.mktemp("reader")
    await plane.kubectl("delete", "crd", *CRDS, "--ignore-not-found")
    plane.create_namespace_sync("data")
    await plane.kubectl("label", "namespace", "data", "pod-security.kubernetes.io/enforce=restricted")
    reader = Reader(plane, "data", folder)
    try:
        await reader.serve(SCENARIO, address=node.host)
        reader.terminal = Terminal(plane, folder / "checkout")
        for name, text in {"token": reader.token, "ca.crt": reader.ca or ""}.items():
            (reader.terminal.folder / name).write_text(text)
        yield reader
        await install_crd(plane)  # The last test removed it.
        await reader.assert_no_secret_told()
    finally:
        await reader.close()


async def test_the_readme_leads_to_a_run_that_succeeds(reader: Reader) -> None:
    text = section("README.md", "Use it")
    install, secret, create, wait, show, *_command_line = commands(text)
    (reader.terminal.folder / "nightly.yaml").write_text(blocks(text, "yaml")[0])

    began = time.monotonic()
    await reader.types(install)
    await reader.types(secret)
    connected = time.monotonic()
    name = (await reader.types(create)).strip().rpartition("/")[2]

    async def started() -> bool:
        return bool(await reader.runs())

    try:
        await until(started, 150, "the first start")
    except AssertionError as error:
        raise AssertionError(f"{error}\n{await reader.watchers_said()}") from None
    start = time.monotonic() - connected
    print(f"the Secret was there {connected - began:.1f} s after helm install began; the first start came "
          f"{start:.1f} s later")  # fmt: skip
    assert start <= FIRST_START_SECONDS * pace()
    await reader.types(wait.replace(PLACEHOLDER, name))
    took = time.monotonic() - began
    print(f"from helm install to Finished: {took:.1f} s")
    assert took <= README_SECONDS * pace()
    assert "Succeeded" in await reader.types(show)
    assert len(await reader.runs()) == 1


async def test_helm_test_passes(reader: Reader) -> None:
    _install, test = commands(introduction("docs/install.md"))
    assert "Succeeded" in await reader.types(test)


async def test_an_uninstalled_watchers_runs_are_taken_up_by_the_next(reader: Reader) -> None:
    _delete, uninstall, *_ = commands(section("docs/install.md", "Uninstalling"))
    own = await reader.live("taken-up")
    assert "dbtruns.dbtrun.dev" in await reader.types(uninstall), "it says what stays"

    async def stopped() -> bool:
        return not [each for each in await reader.stays() if each.startswith("pod/")]

    await until(stopped, 60, "the watcher's Pod is gone", pause=0.5)
    kept = {f"customresourcedefinition.apiextensions.k8s.io/{name}" for name in CRDS}
    assert await reader.stays() == kept | {"lease.coordination.k8s.io/dbtrun"}
    await own.finish(10)
    assert (await own.status())["phase"] == "Running", "nobody looks"
    install, *_ = commands(section("README.md", "Use it"))
    await reader.types(install)
    await own.reaches("Succeeded")
    assert len(await own.runs()) == 1


async def test_without_a_watcher_a_finalizer_is_removed_by_hand(reader: Reader) -> None:
    _delete, uninstall, _crd, _lease, by_hand = commands(section("docs/install.md", "Uninstalling"))
    own = await reader.live("left-alone")
    await reader.types(uninstall)
    await reader.kubectl("delete", "dr", own.name, "--wait=false")
    await reader.types(by_hand.replace("NAME", own.name))
    await reader.gone(own.name)
    assert [run["status"] for run in await own.runs()] == [3], "the run in dbt Cloud goes on"
    install, *_ = commands(section("README.md", "Use it"))
    await reader.types(install)


async def test_what_is_deleted_before_the_watcher_leaves_nothing(reader: Reader) -> None:
    delete, uninstall, crd, lease, _by_hand = commands(section("docs/install.md", "Uninstalling"))
    own = await reader.live("cancelled")
    for command in (delete, uninstall, crd, lease):
        await reader.types(command)
    assert [run["status"] for run in await own.runs()] == [30], "cancelled in dbt Cloud"

    async def nothing() -> bool:
        return not await reader.stays()

    await until(nothing, 60, "nothing stays", pause=0.5)
    assert KIND not in await reader.terminal.run("kubectl api-resources --api-group=dbtrun.dev")
