"""The scenario file: what it may say, and one sentence for everything it may not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from watcher.simulator.command import simulate
from watcher.simulator.scenario import DEFAULT_TOKEN, Scenario, TokenSpec, parse

if TYPE_CHECKING:
    from pathlib import Path

BAD = {
    "jobs: [": "not YAML at line 1, column 8: expected the node content",
    "- a list": "the top level: expected `object`, got `array`.",
    "job: []": "the top level has no field `job`: see the list of fields in docs/simulator.md.",
    "jobs: [{id: 5}]": "jobs[0] needs the field `name`.",
    "jobs: [{name: a, outcome: error}]": "jobs[0] has no field `outcome`: see the list of fields",
    "jobs: [{name: a, outcomes: [failed]}]": "jobs[0].outcomes[0]: invalid enum value 'failed'.",
    "jobs: [{name: a, outcomes: []}]": "jobs[0].outcomes: expected `array` of length >= 1.",
    "jobs: [{name: a, run: soon}]": "jobs[0].run: expected `float | array | null`, got `str`.",
    "jobs: [{name: a, run: -1}]": "jobs[0].run: expected `float` >= 0.0.",
    "jobs: [{name: a, queue: [5, 1]}]": "jobs[0].queue: the spread [5, 1] must go from low to high.",
    "jobs: [{name: a, queue: [5]}]": "jobs[0].queue: expected `array` of length >= 2.",
    "jobs: [{name: a, id: 7}, {name: b, id: 7}]": "jobs[1].id: 7 is used twice, choose another.",
    "jobs: [{name: a, project: Sales}]": "jobs[0].project: there is no project 'Sales', the projects are Analytics.",
    "jobs: [{name: a, environment: CI}]": "jobs[0].environment: project Analytics has no environment 'CI', it has",
    "jobs: [{name: a, failing_step: 2}]": "jobs[0].failing_step: 2 is more than the 1 steps.",
    "jobs: [{name: a, failing: [{name: x}]}]": "jobs[0].failing[0] has no field `name`: see the list",
    "tokens: [{token: x, projects: [3]}]": "tokens[0].projects: there is no project 3, the projects are Analytics.",
    "tokens: [{token: secret-thing}, {token: secret-thing}]": "tokens: the same token is given twice, keep one.",
    "projects: []": "projects: expected `array` of length >= 1.",
    "account: {id: big}": "account.id: expected `int`, got `str`.",
    "account: {run_slots: 0}": "account.run_slots: expected `int` >= 1.",
}


@pytest.mark.parametrize(("text", "sentence"), BAD.items(), ids=range(len(BAD)))
def test_a_mistake_in_the_file_is_one_sentence_and_exit_code_2(text: str, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "scenario.yaml"
    file.write_text(text)
    result = CliRunner().invoke(simulate, ["--config", str(file)])
    assert result.exit_code == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert errors == [result.stderr.splitlines()[-1]]
    assert errors[0].startswith(f"Error: {file}: {sentence}")
    assert errors[0].endswith(".")
    assert "secret-thing" not in result.output


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    result = CliRunner().invoke(simulate, ["--config", str(tmp_path / "none.yaml")])
    assert result.exit_code == 2
    assert result.stderr.endswith("none.yaml: cannot be read: No such file or directory.\n")


def test_a_state_file_that_is_something_else_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "state"
    file.write_text("these are not the tables you are looking for" * 50)
    result = CliRunner().invoke(simulate, ["--state", str(file)])
    assert result.exit_code == 2
    assert "not a state file of the simulator" in result.stderr.splitlines()[-1]


def test_what_is_left_out_has_a_default_and_ids_are_the_same_every_time() -> None:
    text = "jobs: [{name: a}, {name: b, id: 70403104000001}, {name: c}]"
    first, second = parse(text), parse(text)
    assert first == second
    assert len({job.id for job in first.jobs}) == 3
    assert first.tokens == [TokenSpec(token=DEFAULT_TOKEN)]
    assert parse("") == Scenario()


def test_a_token_never_shows() -> None:
    assert "secret-thing" not in repr(TokenSpec(token="secret-thing"))
