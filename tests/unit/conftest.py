"""Fixtures of every unit test."""

from __future__ import annotations

import random

import pytest


@pytest.fixture(autouse=True)
def _same_chance() -> None:
    """The same jitter in every run: a test that controls time controls chance, too."""
    random.seed(1)
