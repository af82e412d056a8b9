"""The threat model names a test for each defence: here it is checked that each of them exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/security.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)))


@pytest.mark.parametrize(("file", "test"), NAMED, ids=lambda text: text.rpartition("/")[2])
def test_each_test_that_the_threat_model_names_exists(file: str, test: str) -> None:
    code = (ROOT / file).read_text()
    assert re.search(rf"^(async )?def {test or r'test_'}", code, re.MULTILINE)


def test_each_row_of_the_threat_model_names_a_test() -> None:
    table = PAGE.partition("## Threat model")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) > 20
    assert [row for row in rows if "`tests/" not in row.rpartition(" | ")[2]] == []
