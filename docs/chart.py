# ruff: noqa: INP001 - docs is a folder of pages, not a package
"""The chart's README, from values.yaml and values.schema.json: what people look up is what Helm accepts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

ROOT: Final = Path(__file__).resolve().parent.parent
CHART: Final = ROOT / "helm/dbtrun"
README: Final = CHART / "README.md"
KEY: Final = re.compile(r"( *)(\w+):")

HEAD: Final = """\
# The dbtrun chart

{description}: the CRDs, the watcher and its rights. Version {version}, for Kubernetes {kubernetes}.

`docs/generate.py` generates this page from `values.yaml` and `values.schema.json`: change those files instead.

Before you install, [build the image](../../docs/install.md#building-the-image) and write a dbt Cloud service token to
the file `token`. If the nodes pull the image from a registry, add `--set image.registry=REGISTRY` to the first command;
an image that you loaded into a local cluster needs none. Replace the host and the account id with yours.

```console
$ helm install dbtrun helm/dbtrun --namespace data --create-namespace
$ kubectl -n data create secret generic dbt-cloud --type=dbtrun.dev/connection \\
    --from-literal=host=cloud.getdbt.com --from-literal=account-id=12345 --from-file=token
$ helm test dbtrun --namespace data
```

[Installing](../../docs/install.md) explains namespaces, rights, network policies, proxies, upgrading and uninstalling.
It also says what to do if the cluster already has the CRDs, or if you have no cluster-wide rights.
[Sidecar](../../docs/sidecar.md) explains `mode: sidecar`.

## Values
"""


class Value(NamedTuple):
    """One value of the chart. Kubernetes' own structures, as `affinity`, are one value."""

    path: str
    text: str
    default: Any
    schema: dict[str, Any]


def values(chart: Path = CHART) -> list[Value]:
    """Every value, in the order of values.yaml."""
    text = (chart / "values.yaml").read_text()
    explained = dict(_comments(text))
    schema = json.loads((chart / "values.schema.json").read_text())
    return list(_leaves(yaml.load(text, yaml.CSafeLoader), schema, schema["$defs"], explained))


def _leaves(
    tree: dict[str, Any],
    schema: dict[str, Any],
    definitions: dict[str, Any],
    explained: dict[str, str],
    above: str = "",
) -> Iterator[Value]:
    for name, default in tree.items():
        path = f"{above}{name}"
        known = _resolved(schema.get("properties", {}).get(name, {}), definitions)
        if isinstance(default, dict) and closed(known):
            yield from _leaves(default, known, definitions, explained, f"{path}.")
        else:
            yield Value(path, explained.get(path, ""), default, known)


def closed(schema: dict[str, Any]) -> bool:
    """Whether the chart itself names a map's keys: each of them is a value."""
    return {"properties", "additionalProperties"} <= schema.keys()


def _resolved(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    return definitions[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _comments(text: str) -> Iterator[tuple[str, str]]:
    """Path and comment of every key that has one directly above it."""
    above: list[str] = []
    comment: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            comment.append(line.lstrip().removeprefix("#").strip())
            continue
        if key := KEY.match(line):
            above = [*above[: len(key[1]) // 2], key[2]]
            if comment:
                yield ".".join(above), " ".join(comment)
        comment = []


def type_of(schema: dict[str, Any]) -> str:
    """What a value may be, in a few words."""
    if "enum" in schema:
        return ", ".join(f"`{each}`" if each else "empty" for each in schema["enum"])
    kinds: list[str] = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    words = " or ".join({"object": "map", "array": "list"}.get(kind, kind) for kind in kinds)
    bounds = [f"{word} {schema[key]:,}" for key, word in (("minimum", "≥"), ("maximum", "≤")) if key in schema]
    return ", ".join([words, *bounds])


def shown(default: Any) -> str:
    """A default as one writes it in YAML, or its size where it is a structure."""
    text = json.dumps(default, ensure_ascii=False)
    return f"`{text}`" if len(text) <= 40 else "see `values.yaml`"


def head(chart: Path = CHART) -> str:
    """What stands above the table."""
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    kubernetes = about["kubeVersion"].removesuffix("-0")
    return HEAD.format(description=about["description"], version=about["version"], kubernetes=kubernetes)


def rows(chart: Path = CHART) -> list[tuple[str, str, str, str]]:
    """Path, type, default and meaning of every value."""
    return [(f"`{each.path}`", type_of(each.schema), shown(each.default), each.text) for each in values(chart)]
