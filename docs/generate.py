#!/usr/bin/env python
"""Writes the pages that people look things up in, so that they say what the API server, watcher and chart do.

docs/reference.md and docs/mirror-reference.md come from the CRDs and the code, docs/settings.md from the settings and
the chart, docs/events.md, docs/lifecycle.md and docs/cli-reference.md from the code, and helm/dbtrun/README.md from the
chart's values and their schema. docs/performance.md comes from what the benches recorded.

python -m docs.generate           write them
python -m docs.generate --check   exit 1 and name those that differ
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from airflow_trigger.waiting.event import STATUSES
from dbtrun.api import API_VERSION, KIND, PHASE_MEANINGS, REASON_DOCS, ConditionType
from dbtrun.api.mirrors import MIRROR_KIND
from docs import chart, cli, events, lifecycle, performance, settings
from tests.bench import record
from watcher.telemetry.metrics import Census, Metrics

ROOT: Final = Path(__file__).resolve().parent.parent
CRD: Final = ROOT / "deploy/crd/dbtrun.dev_dbtruns.yaml"
REFERENCE: Final = ROOT / "docs/reference.md"
MIRRORS_CRD: Final = ROOT / "deploy/crd/dbtrun.dev_dbtrunmirrors.yaml"
MIRRORS: Final = ROOT / "docs/mirror-reference.md"
SETTINGS: Final = ROOT / "docs/settings.md"
EVENTS: Final = ROOT / "docs/events.md"
LIFECYCLE: Final = ROOT / "docs/lifecycle.md"
COMMANDS: Final = ROOT / "docs/cli-reference.md"
PERFORMANCE: Final = ROOT / "docs/performance.md"

CONDITIONS: Final[dict[ConditionType, str]] = {
    ConditionType.SUCCEEDED: "Unknown until the end. Then True if dbt Cloud reports success, and False otherwise.",
    ConditionType.FINISHED: "True at any end: use it with `kubectl wait --for=condition=Finished`.",
    ConditionType.REACHABLE: "False while dbt Cloud does not answer or refuses the token. The status may be outdated.",
    ConditionType.RECONCILING: "True until the end (for kstatus and Flux).",
    ConditionType.STALLED: "True if the object has ended without success (for kstatus and Flux).",
}

SHORT_NAME: Final = (
    "The short name is `dr`. If another CRD of the cluster has the same short name, such as Istio's DestinationRule, "
    "kubectl may choose that one: write `dbtrun` instead."
)

SUFFIXES: Final = {"counter": "_total", "info": "_info"}
"""What a metric of this type has behind its name."""

Schema = dict[str, Any]


class Field(NamedTuple):
    """One node of the schema, by its path without `spec.` or `status.`."""

    path: str
    schema: Schema
    required: bool


def fields(schema: Schema, path: str = "") -> Iterator[Field]:
    """Every field below a node, parents first. List items carry `[]` in their path."""
    for name, child in schema.get("properties", {}).items():
        below = f"{path}.{name}".lstrip(".")
        yield Field(below, child, name in schema.get("required", ()))
        yield from fields(child, below)
        yield from fields(child.get("items", {}), f"{below}[]")


def type_of(schema: Schema) -> str:
    """The type as people say it."""
    if "items" in schema:
        return f"list of {type_of(schema['items'])}"
    if "additionalProperties" in schema:
        return f"map to {type_of(schema['additionalProperties'])}"
    if schema.get("format") == "date-time":
        return "time"
    return str(schema["type"])


def allowed(schema: Schema) -> str:
    """Which values a field takes, beyond its type."""
    values = schema.get("enum") or schema.get("items", {}).get("enum")
    if values:
        return ", ".join(f"`{value}`" for value in values)
    bounds = (("minimum", "maximum", ""), ("minLength", "maxLength", " characters"), ("minItems", "maxItems", " items"))
    return ", ".join(
        _range(schema.get(low), schema.get(high)) + unit for low, high, unit in bounds if {low, high} & schema.keys()
    )


def _range(low: int | None, high: int | None) -> str:
    if high is None:
        return f"≥ {low:,}"
    return f"≤ {high:,}" if low is None else f"{low:,} to {high:,}"


def default_of(schema: Schema) -> str:
    """The default as YAML would have it, or nothing."""
    if "default" not in schema:
        return ""
    text = json.dumps(schema["default"]).replace('"', "")
    return f"`{text}`"


def immutable(spec: Schema) -> set[str]:
    """The fields of the spec that a rule compares with the stored object."""
    rules = (rule["rule"] for rule in spec["x-kubernetes-validations"])
    return {name for rule in rules for name in re.findall(r"\boldSelf\.(\w+)", rule)}


def sentences(schema: Schema) -> Iterator[str]:
    """What the rules of a node and of all below it say when they are broken."""
    yield from (rule["message"] for rule in schema.get("x-kubernetes-validations", ()))
    for child in schema.get("properties", {}).values():
        yield from sentences(child)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    cells = [tuple(head), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join([lines[0], "|---" * len(cells[0]) + "|", *lines[1:]])


def spec_table(spec: Schema) -> str:
    """The spec: what may be written and what may be changed."""
    fixed = immutable(spec)

    def change(path: str) -> str:
        root = re.split(r"[.\[]", path)[0]
        return "no" if root in fixed else "to true only" if root == "cancel" else "yes"

    rows = (
        (f"`{path}`", type_of(node), default_of(node), allowed(node), change(path), _described(node, required))
        for path, node, required in fields(spec)
    )
    return table(("Field", "Type", "Default", "Values", "Can be changed", "Meaning"), rows)


def status_table(status: Schema) -> str:
    """The status: what may be read."""
    return table(
        ("Field", "Type", "Meaning"),
        ((f"`{path}`", type_of(node), node["description"]) for path, node, _ in fields(status)),
    )


def _described(schema: Schema, required: bool) -> str:
    return ("Required. " if required else "") + str(schema["description"])


def metrics_table() -> str:
    """What /metrics shows."""
    metrics = Metrics()
    metrics.watch(())
    metrics.watch_parts(())
    metrics.watch_objects(Census)
    rows = (
        (f"`{metric.name}{SUFFIXES.get(metric.type, '')}`", metric.type, _code(*labels), metric.documentation)
        for collector in metrics.registry._collector_to_names
        for metric, labels in _labelled(collector)
    )
    return table(("Metric", "Type", "Labels", "Meaning"), sorted(rows))


def _labelled(collector: Collector) -> Iterator[tuple[Metric, tuple[str, ...]]]:
    """What a collector shows, with the labels that it names: the library has no public way to ask for them."""
    for metric in collector.collect():
        yield metric, tuple(getattr(collector, "_labelnames", getattr(metric, "_labelnames", ())))


def reference(crd: Schema) -> str:
    """The whole page."""
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    spec, status = schema["properties"]["spec"], schema["properties"]["status"]
    return (
        "\n\n".join(
            [
                f"# {KIND} (`{API_VERSION}`)",
                "`docs/generate.py` generates this page from the CRD and the code: change those instead.",
                schema["description"],
                SHORT_NAME,
                "## spec",
                spec["description"],
                spec_table(spec),
                "### What the API server refuses",
                "Values of a wrong type or out of range, and what breaks one of these rules:",
                "\n".join(f"- {sentence}" for sentence in sentences(spec)),
                "## status",
                status["description"],
                status_table(status),
                "## Phases",
                "`status.phase`, and what Airflow's trigger reports as the event's `status` when it ends there:",
                table(
                    ("Phase", "Final", "Event", "Meaning"),
                    (
                        (f"`{phase}`", "yes" if phase.final else "", _code(STATUSES.get(phase)), meaning)
                        for phase, meaning in PHASE_MEANINGS.items()
                    ),
                ),
                "## Conditions",
                table(("Condition", "Meaning"), ((f"`{kind}`", meaning) for kind, meaning in CONDITIONS.items())),
                "## Reasons",
                "`status.reason`, and the `reason` of attempts and conditions. A reason is never renamed: match on it.",
                table(
                    ("Reason", "Meaning", "What to do"),
                    ((f"`{reason}`", *doc) for reason, doc in REASON_DOCS.items()),
                ),
                "## Metrics",
                "Of the watcher, at `/metrics`. No label holds the name of an object or run.",
                metrics_table(),
            ]
        )
        + "\n"
    )


MIRRORS_HEAD: Final = """\
A DbtRunMirror shows runs that were started without a DbtRun: by dbt Cloud's own scheduler, by CI, or by people. For
each run that matches, the watcher creates the DbtRun `MIRROR-RUNID`, which follows the run and starts nothing. If you
delete the DbtRun, the run continues. If you delete the DbtRunMirror, Kubernetes deletes its DbtRuns, and the runs
continue.

```yaml
apiVersion: dbtrun.dev/v1alpha1
kind: DbtRunMirror
metadata: {name: nightly}
spec:
  select: {jobIds: [12345], causes: [scheduled, ui]}
```

- Each DbtRun has the labels `dbtrun.dev/mirror`, `dbtrun.dev/job-id`, `dbtrun.dev/environment-id` and
  `dbtrun.dev/cause`, and those of the template. It has no finalizer, and no Event for its end.
- A run appears once, even if the watcher restarts. If you delete its DbtRun, the run does not appear again. With
  `appear: Started`, it can appear again if you delete the DbtRun before the run has ended.
- dbt Cloud may list a run late. A run that it lists more than two minutes after the end appears up to ten minutes
  later, or when the watcher starts again; `status.lateRuns` counts these. A run that it lists more than two hours after
  the end does not appear. If more than 2,000 matching runs finish within two hours, this limit is shorter.
- If you change `select`, runs that finished more than two minutes before the change do not appear.
- Runs that DbtRuns of this cluster have started do not appear. Neither do runs that resume one of them, or that
  another DbtRun of the mirror's namespace follows.
- If another DbtRun has the name `MIRROR-RUNID`, the mirror waits until it is deleted, and the condition Ready says so.
- If more runs finish than `maxPerMinute`, they wait: the condition CaughtUp is False, and none is left out.
- The watcher sends about 12 requests a minute for all mirrors of a connection together, and 14 if one has
  `appear: Started`; more while it reads a backlog.
- `kubectl get drm` shows whether a mirror works and has caught up. The watcher needs the CRD
  `dbtrunmirrors.dbtrun.dev`; the chart installs it, or apply `deploy/crd/dbtrun.dev_dbtrunmirrors.yaml`."""


def mirror_reference(crd: Schema) -> str:
    """The page of DbtRunMirrors."""
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    spec, status = schema["properties"]["spec"], schema["properties"]["status"]
    return (
        "\n\n".join(
            [
                f"# {MIRROR_KIND} (`{API_VERSION}`)",
                "`docs/generate.py` generates this page from the CRD and the code: change those instead.",
                MIRRORS_HEAD,
                "## spec",
                spec_table(spec),
                "### What the API server refuses",
                "\n".join(f"- {sentence}" for sentence in sentences(schema)),
                "## status",
                status["description"],
                status_table(status),
            ]
        )
        + "\n"
    )


def _code(*words: str | None) -> str:
    return ", ".join(f"`{word}`" for word in words if word)


def chart_readme(folder: Path = chart.CHART) -> str:
    """The page of the chart."""
    return chart.head(folder) + "\n" + table(("Value", "Type", "Default", "Meaning"), chart.rows(folder)) + "\n"


def settings_page() -> str:
    """The page of the watcher's settings."""
    return (
        settings.HEAD
        + table(settings.COLUMNS, settings.rows())
        + settings.ENVIRONMENT
        + table(("Variable", "Helm value", "Meaning"), settings.OTHER_VARIABLES)
        + "\n"
    )


def events_page() -> str:
    """The page of the Events."""
    return events.HEAD + table(events.COLUMNS, events.rows()) + "\n"


def lifecycle_page() -> str:
    """The page of the phases and their transitions."""
    found = lifecycle.transitions()
    return (
        lifecycle.HEAD
        + lifecycle.diagram(found)
        + lifecycle.TABLE
        + table(lifecycle.COLUMNS, lifecycle.rows(found))
        + "\n"
    )


def commands_page() -> str:
    """The page of the commands."""
    parts = [cli.HEAD.rstrip()]
    for section in cli.sections():
        parts += [f"## {section.name}", f"`{section.usage}`", section.text]
        rows = list(section.rows())
        if section.name in cli.ELSEWHERE:
            parts.append(cli.ELSEWHERE[section.name])
        elif rows:
            parts.append(table(cli.COLUMNS, rows))
    return "\n\n".join(parts) + cli.CODES + table(cli.CODE_COLUMNS, cli.codes()) + "\n"


def pages() -> dict[Path, str]:
    """Every generated page and its text."""
    return {
        REFERENCE: reference(yaml.load(CRD.read_text(), yaml.CSafeLoader)),
        MIRRORS: mirror_reference(yaml.load(MIRRORS_CRD.read_text(), yaml.CSafeLoader)),
        SETTINGS: settings_page(),
        EVENTS: events_page(),
        COMMANDS: commands_page(),
        LIFECYCLE: lifecycle_page(),
        PERFORMANCE: performance.page(record.read(), table),
        chart.README: chart_readme(),
    }


def main() -> None:
    """Writes the pages, or compares them with `--check`."""
    parser = argparse.ArgumentParser(description="Write the generated pages.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a page is out of date")
    checking = parser.parse_args().check
    written = pages()
    differing = [path for path, text in written.items() if not path.exists() or path.read_text() != text]
    if checking and differing:
        names = ", ".join(str(path.relative_to(ROOT)) for path in differing)
        raise SystemExit(f"out of date: {names}; run `python -m docs.generate`")
    for path in differing:
        path.write_text(written[path])


if __name__ == "__main__":
    main()
