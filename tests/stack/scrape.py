"""What a watcher's /metrics says, as a scraper reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.stack.program import Program
from tests.stack.stack import page


class Scrape(NamedTuple):
    """One scrape."""

    names: frozenset[str]
    """Of the families, those without a value too; with the suffix that the type adds."""
    samples: tuple[Sample, ...]

    def value(self, name: str, labels: Mapping[str, str] = {}) -> float | None:
        """The sum of the samples that have these labels, among others; None: there is none."""
        found = [each.value for each in self.samples if each.name == name and labels.items() <= each.labels.items()]
        return sum(found) if found else None


async def scrape(watcher: Program) -> Scrape:
    """What the watcher serves now."""
    families = list(text_string_to_metric_families((await page(watcher, "/metrics")).text))
    names = frozenset(each.name + ("_total" if each.type == "counter" else "") for each in families)
    return Scrape(names, tuple(sample for each in families for sample in each.samples))
