"""docs/simulator.md says what the simulator does: every field, effect, kind, option and control endpoint."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Final, get_args

import pytest

from tests.contract.conftest import Cloud
from tests.node.documents import commands
from watcher.simulator.command import simulate
from watcher.simulator.control import Control
from watcher.simulator.faults import AnyEffect, Rule
from watcher.simulator.routes import KINDS
from watcher.simulator.scenario import (
    AccountSpec,
    EnvironmentSpec,
    FailingNode,
    JobSpec,
    ProjectSpec,
    Scenario,
    TokenSpec,
    WebhookSpec,
    parse,
)
from watcher.simulator.webhooks import Conduct

TEXT = (Path(__file__).parents[2] / "docs" / "simulator.md").read_text()
ADDRESS: Final = "http://127.0.0.1:8580"
EXAMPLE = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)[0]


def test_the_example_is_a_scenario() -> None:
    assert [job.name for job in parse(EXAMPLE).jobs] == ["nightly"]


@pytest.mark.parametrize(
    "kind", [Scenario, AccountSpec, TokenSpec, ProjectSpec, EnvironmentSpec, JobSpec, FailingNode, WebhookSpec]
)
def test_the_example_shows_every_field(kind: type[Scenario]) -> None:
    assert [name for name in kind.__struct_fields__ if not re.search(rf"\b{name}:", EXAMPLE)] == []


def test_every_effect_is_listed_with_its_fields() -> None:
    rows = dict(re.findall(r"^\| `([a-z][a-z-]+)` \| (.*?) \|", TEXT, re.MULTILINE))
    listed = {name: set(re.findall(r"`(\w+)`", fields)) for name, fields in rows.items()}
    effects = {str(kind.__struct_config__.tag): set(kind.__struct_fields__) for kind in get_args(AnyEffect)}
    assert listed == effects
    assert all(f"`{name}`" in TEXT for name in Rule.__struct_fields__)


def test_every_mishap_of_webhooks_is_named() -> None:
    assert [name for name in Conduct.__struct_fields__ if f'"{name}":' not in TEXT] == []


def test_every_kind_of_request_is_named() -> None:
    assert [kind for kind in KINDS if f"`{kind}`" not in TEXT] == []


def test_every_option_is_explained() -> None:
    options = [option for parameter in simulate.params for option in parameter.opts]
    assert [option for option in options if f"`{option}" not in TEXT] == []


def test_every_control_endpoint_is_explained(cloud: Cloud) -> None:
    for route in Control(cloud.simulator).routes:
        path = route.path.removeprefix("/_simulator")
        for method in (route.methods or set()) - {"HEAD"}:
            assert f"{method} {path}`" in TEXT or f"{method} {path}," in TEXT, f"{method} {path}"


def test_the_commands_of_the_page_work(tmp_path: Path) -> None:
    """As they stand, but for the port, which another test may use."""
    serve, start, fault = commands(TEXT)
    command = serve.replace("dbtrun ", f"{sys.executable} -m dbtrun ", 1) + " --port 0"
    env = {"HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(["bash", "-c", f"exec {command}"], env=env, stdout=subprocess.PIPE, text=True) as simulator:
        try:
            assert simulator.stdout is not None
            says = simulator.stdout.readline()
            url = says.split()[3].rstrip(",")
            assert says.replace(url, ADDRESS).strip() in TEXT

            def typed(command: str) -> dict[str, object]:
                shell = ["bash", "-c", command.replace(ADDRESS, url)]
                answer = subprocess.run(shell, env=env, capture_output=True, text=True, check=True)
                read: dict[str, object] = json.loads(answer.stdout)
                return read

            run = typed(start)["data"]
            assert isinstance(run, dict)
            assert run["trigger"]["cause"] == "hello"
            assert typed(fault)
        finally:
            simulator.kill()
