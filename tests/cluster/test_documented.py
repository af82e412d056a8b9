"""What the guides tell people to type with kubectl, typed on a real API server with a watcher and the simulator."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import pytest_asyncio
import yaml

from tests.controlplane import ControlPlane
from tests.node.documents import Terminal, blocks, commands, section
from tests.stack import Stack, dbt_run
from tests.stack.dbt import ACCOUNT, ROOT

pytestmark = pytest.mark.asyncio(loop_scope="module")
PLACEHOLDER: Final = "nightly-x7k2p"
SCENARIO: Final[dict[str, Any]] = {
    "account": {"id": ACCOUNT},
    "projects": [{"name": "sales", "environments": [{"name": "production"}]}],
    "jobs": [
        {"id": 123, "name": "nightly", "queue": 0.1, "start": 0.1, "run": 1.0, "parallel": True},
        {"id": 103, "name": "endless", "queue": 0.1, "start": 0.1, "run": None, "parallel": True},
    ],
}


class Reader(Stack):
    """Somebody who types what the guides say, in the namespace of the kubeconfig."""

    terminal: Terminal

    async def types(self, command: str, name: str) -> str:
        return await self.terminal.run(command.replace(PLACEHOLDER, name))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reader(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Reader]:
    folder = tmp_path_factory.mktemp("documented")
    plane.create_namespace_sync("documented")
    async with Reader.up(plane, "documented", folder, scenario=SCENARIO) as stack:
        assert isinstance(stack, Reader)
        stack.terminal = Terminal(plane, folder / "checkout", "documented")
        yield stack


async def test_the_guide_for_kubectl(reader: Reader) -> None:
    guide = "docs/kubernetes.md"
    create, wait, show = commands(section(guide, "Start a job"))
    name = (await reader.types(create, "")).strip().rpartition("/")[2]
    await reader.types(wait, name)
    assert "Succeeded" in await reader.types(show, name)
    for command in commands(section(guide, "Wait in a script")):
        await reader.types(command, name)

    cancel, delete = commands(section(guide, "Stop a run"))
    await reader.apply(dbt_run("live", "endless"))
    await reader.reaches("live", "Running")
    await reader.types(cancel, "live")
    await reader.reaches("live", "Cancelled")
    await reader.types(delete, "live")
    await reader.gone("live")


async def test_each_example_of_the_guide_is_a_valid_spec(reader: Reader) -> None:
    examples = blocks((ROOT / "docs/kubernetes.md").read_text(), "yaml")
    assert len(examples) > 5
    for number, text in enumerate(examples):
        manifest = {**dbt_run(f"example-{number}"), "spec": {**yaml.safe_load(text)["spec"], "suspend": True}}
        await reader.kubectl("create", "--dry-run=server", "-f", "-", input=yaml.safe_dump(manifest))


async def test_the_documented_rights_are_enough_and_no_more(reader: Reader) -> None:
    page = "docs/rights.md"
    (see,) = commands(section(page, "With the roles of Kubernetes"))
    start, read_secrets = commands(section(page, "Without access to Secrets"))
    (roles,) = blocks(section(page, "Without access to Secrets"), "yaml")
    there = {"namespace: data": f"namespace: {reader.namespace}", "-n data": f"-n {reader.namespace}"}

    def moved(text: str) -> str:
        return re.sub("|".join(there), lambda found: there[found[0]], text)

    jane = "--as=jane --as-group=analysts"
    await reader.terminal.run(moved(see))
    await reader.terminal.run(f"! {moved(start)}")
    await reader.kubectl("apply", "-f", "-", input=moved(roles))
    assert "yes" in await reader.terminal.run(moved(start))
    assert "no" in await reader.terminal.run(f"! {moved(read_secrets)}")
    manifest = yaml.safe_dump({**dbt_run("janes", "endless")})
    await reader.kubectl("create", "--as=jane", "--as-group=analysts", "-f", "-", input=manifest)
    await reader.terminal.run(f"kubectl get dr {jane}")
    await reader.terminal.run(f"""kubectl patch dr/janes --type=merge -p '{{"spec": {{"cancel": true}}}}' {jane}""")
    await reader.reaches("janes", "Cancelled")
    await reader.terminal.run(f"! kubectl delete dr/janes {jane}")


async def test_waiting_as_the_gitops_page_says(reader: Reader) -> None:
    wait, phase = commands(section("docs/gitops.md", "kubectl"))
    await reader.apply({**dbt_run("nightly"), "spec": {"job": {"id": 123}}})
    await reader.types(wait, "nightly")
    assert await reader.types(phase, "nightly") == "Succeeded"


async def test_a_waiting_run_says_so_and_changes_its_priority(reader: Reader) -> None:
    page = "docs/sharing.md"
    (look,) = commands(section(page, "Limit the runs that are live at once"))
    (raise_it,) = commands(section(page, "Order the runs of a namespace"))
    await reader.apply(reader.secret("limited", reader.keys() | {"max-concurrent-runs": "1"}))
    limited = {"connectionRef": {"name": "limited"}}
    await reader.apply(dbt_run("first", "endless", **limited))
    await reader.reaches("first", "Running")
    await reader.apply(dbt_run("second", "endless", **limited))
    await reader.reaches("second", "Pending", reason="WaitingForSlot")
    assert (await reader.types(look, "second")).startswith("WaitingForSlot: Waiting for a run slot: the account has 1")
    await reader.types(raise_it, "second")
    assert (await reader.get("second"))["spec"]["priority"] == 10


async def test_a_file_of_a_run_is_printed(reader: Reader) -> None:
    spec = {"job": {"id": 123}, "artifacts": ["run_results.json", "dbtrun/results.json"]}
    await reader.apply({**dbt_run("kept"), "spec": spec})
    await reader.reaches("kept", "Succeeded")
    for show in commands((ROOT / "docs/artifacts.md").read_text()):
        assert '"results"' in await reader.types(show.replace("nightly-artifacts", "kept-artifacts"), "kept")
