"""The alerts: each fires in its own test, all are silent in a healthy one, and those tests can fail."""

from __future__ import annotations

import copy
import itertools
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.patience import patience

ROOT: Final = Path(__file__).parents[2]
RULES: Final = ROOT / "helm/dbtrun/files/alerts.yaml"
TESTS: Final = Path(__file__).parent / "alerts.test.yaml"
NAMES: Final = (
    "DbtRunTokenRefused",
    "DbtRunDbtCloudUnreachable",
    "DbtRunSecretMissing",
    "DbtRunNoLeader",
    "DbtRunWatchBroken",
    "DbtRunBudgetExhausted",
    "DbtRunStuck",
    "DbtRunLate",
    "DbtRunJobFailing",
    "DbtRunWatcherRestarting",
)
HEALTHY: Final = ("5m", "62m", "64m", "90m", "100m", "179m")

rules: Final[dict[str, Any]] = yaml.load(RULES.read_text(), yaml.CSafeLoader)


def file_of(name: str | None) -> dict[str, Any]:
    """The file of tests, or of it the test of that name; in the healthy one, every alert is asked for."""
    written: dict[str, Any] = yaml.load(TESTS.read_text(), yaml.CSafeLoader)
    healthy, *others = written["tests"]
    silent: list[str] = []
    asked = [
        {"eval_time": time, "alertname": alert, "exp_alerts": silent}
        for time, alert in itertools.product(HEALTHY, NAMES)
    ]
    chosen = [healthy | {"alert_rule_test": asked}, *others]
    chosen = [each for each in chosen if name in (None, each["name"].partition(",")[0])]
    return written | {"tests": chosen}


def passes(promtool: Path, folder: Path, changed: dict[str, Any], asked: dict[str, Any]) -> tuple[bool, str]:
    (folder / "alerts.yaml").write_text(yaml.safe_dump(changed))
    (folder / "test.yaml").write_text(yaml.safe_dump(asked))
    answer = subprocess.run(
        [promtool, "test", "rules", str(folder / "test.yaml")],
        capture_output=True,
        text=True,
        check=False,
        timeout=patience(60),
    )
    return answer.returncode == 0, answer.stdout + answer.stderr


def alerts(of: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for group in of["groups"]:
        yield from group["rules"]


def with_expression(name: str, expression: str) -> dict[str, Any]:
    changed = copy.deepcopy(rules)
    for alert in alerts(changed):
        if alert["alert"] == name:
            alert["expr"] = expression
    return changed


def test_there_are_ten_alerts() -> None:
    assert tuple(alert["alert"] for alert in alerts(rules)) == NAMES


def test_prometheus_takes_the_rules(promtool: Path) -> None:
    answer = subprocess.run(
        [promtool, "check", "rules", "--lint=all", "--lint-fatal", str(RULES)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "10 rules found" in answer.stdout


def test_each_alert_fires_in_its_test_and_is_silent_in_the_healthy_one(promtool: Path, tmp_path: Path) -> None:
    passed, told = passes(promtool, tmp_path, rules, file_of(None))
    assert passed, told


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_that_never_fires_is_noticed(promtool: Path, tmp_path: Path, name: str) -> None:
    passed, told = passes(promtool, tmp_path, with_expression(name, "vector(0) > 1"), file_of(name))
    assert not passed
    assert name in told


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_that_always_fires_is_noticed(promtool: Path, tmp_path: Path, name: str) -> None:
    passed, told = passes(promtool, tmp_path, with_expression(name, "vector(1)"), file_of("healthy"))
    assert not passed
    assert name in told


def test_the_page_says_what_to_do_about_each_alert() -> None:
    page = (ROOT / "docs/monitoring.md").read_text()
    assert tuple(re.findall(r"^### (DbtRun\w+)$", page, re.MULTILINE)) == NAMES
