"""kubernetes_asyncio is imported in parts, and for whoever else uses it in the same process it is whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
LOADED = 'sum(name.startswith("kubernetes_asyncio.client.models.") for name in sys.modules)'


def printed(*lines: str) -> Any:
    """What a fresh interpreter prints, as JSON."""
    script = "\n".join(("import json, sys, threading", *lines))
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_neither_a_command_nor_a_watcher_loads_the_generated_modules() -> None:
    """kopf looks for two of them."""
    modules = "dbtrun.cli.cluster, dbtrun.kube.execute, watcher.app, watcher.cluster.kopf_operator"
    assert printed(f"import {modules}", f"print({LOADED})") == 2


def test_others_find_the_whole_library() -> None:
    found = printed(
        "from dbtrun.kube.library import ApiClient, Configuration, config",
        "from kubernetes_asyncio.client import CoreV1Api, V1Pod",
        "import kubernetes_asyncio.client.models, kubernetes_asyncio as whole",
        "same = [",
        "    whole.client.ApiClient is ApiClient, whole.client.Configuration is Configuration, whole.config is config,",
        "    whole.client.models.V1Pod is V1Pod, CoreV1Api.__init__.__globals__['ApiClient'] is ApiClient,",
        "]",
        "names = [whole.__version__, whole.watch.__name__, whole.client.__spec__.loader.__class__.__name__]",
        "left = [finder for finder in sys.meta_path if finder.__module__ == 'dbtrun.kube.library']",
        "print(json.dumps([same, names, len(left)]))",
    )
    version, *names = found[1]
    assert (found[0], names, found[2]) == ([True] * 5, ["kubernetes_asyncio.watch", "SourceFileLoader"], 0)
    assert version[0].isdigit()


def test_a_name_that_the_library_does_not_have_is_an_import_error() -> None:
    found = printed(
        "import dbtrun.kube.library",
        "try:",
        "    from kubernetes_asyncio.client import Nonsense",
        "except ImportError as error:",
        "    print(json.dumps(str(error)))",
    )
    assert "cannot import name 'Nonsense' from 'kubernetes_asyncio.client'" in found


def test_threads_that_ask_at_once_all_get_it() -> None:
    found = printed(
        "import dbtrun.kube.library",
        "from kubernetes_asyncio import client",
        "got = []",
        "start = threading.Barrier(8)",
        "def ask():",
        "    start.wait()",
        "    got.append(client.V1Pod.__name__)",
        "threads = [threading.Thread(target=ask) for _ in range(8)]",
        "[thread.start() for thread in threads]",
        "[thread.join() for thread in threads]",
        "print(json.dumps(got))",
    )
    assert found == ["V1Pod"] * 8


def test_what_others_have_imported_before_is_used() -> None:
    """Any part of the library that is imported before is the whole: its package imports all parts."""
    found = printed(
        "import kubernetes_asyncio.config",
        "from dbtrun.kube.library import ApiClient, config",
        "same = [kubernetes_asyncio.client.ApiClient is ApiClient, kubernetes_asyncio.config is config]",
        "print(json.dumps([*same, kubernetes_asyncio.client.V1Pod.__name__]))",
    )
    assert found == [True, True, "V1Pod"]
