"""What code in a container of a Pod can reach of a neighbour's secrets. It runs in there: only the standard library.

Prints one JSON object: what it found in files, and how the API server answered to what it tried as the Pod itself.
"""

import base64
import json
import os
import re
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
DBT_TOKEN = re.compile(rb"dbtc_[0-9a-f]{40}")
KUBERNETES_TOKEN = re.compile(rb"eyJ[\w-]+\.(eyJ[\w-]+)\.[\w-]+")
OF_THE_KERNEL = {"proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue"}


def files() -> Iterator[Path]:
    """Every file of what is mounted, the image's own too, and what processes let others see of them."""
    mounts = [line.split()[1:3] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for place in (place for place, kind in mounts if kind not in OF_THE_KERNEL):
        if Path(place).is_file():
            yield Path(place)
        for folder, names, found in os.walk(place):
            names[:] = [name for name in names if not Path(folder, name).is_mount() and name not in ("proc", "sys")]
            yield from (Path(folder, name) for name in found)
    for process in Path("/proc").glob("[0-9]*"):
        yield process / "environ"
        yield process / "cmdline"


def subject(payload: bytes) -> str:
    claims = json.loads(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
    return str(claims["sub"])


def search() -> dict[str, Any]:
    dbt: list[str] = []
    subjects: dict[str, str] = {}
    read = 0
    for path in files():
        try:
            if not path.is_file() and "proc" not in path.parts[:2]:
                continue
            text = path.read_bytes()
        except OSError:
            continue
        read += 1
        if DBT_TOKEN.search(text):
            dbt.append(str(path))
        for payload in KUBERNETES_TOKEN.findall(text):
            try:
                subjects[subject(payload)] = str(path)
            except (ValueError, KeyError, TypeError):
                continue
    return {"dbt tokens": dbt, "identities": subjects, "files read": read}


def ask(method: str, path: str, body: Any = None, kind: str = "application/json") -> int:
    """The status code of an answer to the Pod's own token."""
    server = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
    headers = {"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}", "Content-Type": kind}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(server + path, data=data, headers=headers, method=method)
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    try:
        with urllib.request.urlopen(request, context=context, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


if __name__ == "__main__":
    tries = json.loads(sys.argv[1])
    print(json.dumps({**search(), "answers": {name: ask(*what) for name, what in tries.items()}}))
