"""An administrator's hands on the API server, and eyes: every version of every DbtRun goes by once."""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64decode
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import httpx
import msgspec
import yaml

from dbtrun.api import PLURAL
from dbtrun.kube.answers import JSON
from dbtrun.kube.cluster import MERGE_PATCH
from dbtrun.kube.paths import api_path
from dbtrun.kube.runs import PREFIX

AT_ONCE: Final = 16
"""Requests under way: more do not make an API server faster."""
BUSY: Final = frozenset({429, 503, 504})
"""What an API server answers that was too busy to say yes or no."""
TRIES: Final = 10
"""Of a request that is answered so."""


class Answer(NamedTuple):
    """What the API server said."""

    code: int
    body: dict[str, Any]

    @property
    def done(self) -> bool:
        """Whether it did it."""
        return self.code < 400

    @property
    def gone(self) -> bool:
        """Whether there is no such object any more."""
        return self.code == 404

    @property
    def message(self) -> str:
        """Its sentence."""
        return str(self.body.get("message", ""))


class Api:
    """DbtRuns of one namespace, over plain HTTP: what is sent is exactly what was made up."""

    def __init__(self, kubeconfig: Path, namespace: str) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        context = ssl.create_default_context(cafile=cluster.get("certificate-authority"))
        if data := cluster.get("certificate-authority-data"):
            context.load_verify_locations(cadata=b64decode(data).decode())
        self.namespace = namespace
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._http = httpx.AsyncClient(
            base_url=cluster["server"],
            headers={"Authorization": f"Bearer {user['token']}"},
            verify=context,
            trust_env=False,
            timeout=60.0,
            limits=httpx.Limits(max_connections=AT_ONCE + 4),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def create(self, body: Mapping[str, Any]) -> Answer:
        """No name is used twice: one that exists was created by a request whose answer did not come in time."""
        answer = await self._ask("POST", self._path(), body, JSON)
        return await self._ask("GET", self._path(body["metadata"]["name"])) if answer.code == 409 else answer

    async def patch(self, name: str, change: Mapping[str, Any], sub: str | None = None) -> Answer:
        return await self._ask("PATCH", self._path(name, sub), change, MERGE_PATCH)

    async def delete(self, name: str, policy: str = "Background") -> Answer:
        return await self._ask("DELETE", self._path(name), {"propagationPolicy": policy}, JSON)

    async def delete_all(self) -> Answer:
        return await self._ask("DELETE", self._path())

    async def list(self) -> Answer:
        return await self._ask("GET", self._path())

    async def watch(self, seen: Seen) -> None:
        """Shows every change, until cancelled."""
        version = (await self.list()).body["metadata"]["resourceVersion"]
        while True:
            query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": "3600"}
            async with self._http.stream("GET", self._path(), params=query, timeout=None) as lines:
                rest = b""
                async for part in lines.aiter_bytes():
                    # Not aiter_lines, to which some characters inside of JSON strings are line ends.
                    *whole, rest = (rest + part).split(b"\n")
                    for line in whole:
                        event = msgspec.json.decode(line)
                        version = event["object"]["metadata"]["resourceVersion"]
                        seen.take(event["type"], event["object"])

    def _path(self, name: str | None = None, sub: str | None = None) -> str:
        return api_path(PREFIX, self.namespace, PLURAL, name, sub)

    async def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None, kind: str = JSON) -> Answer:
        content = None if body is None else msgspec.json.encode(body)
        query = {"fieldValidation": "Strict"} if method in ("POST", "PATCH") else None
        headers = {"Content-Type": kind}
        async with self._turns:
            for last in (number == TRIES for number in range(1, TRIES + 1)):
                try:
                    answer = await self._http.request(method, path, params=query, content=content, headers=headers)
                    if last or answer.status_code not in BUSY:
                        break
                except (httpx.NetworkError, httpx.RemoteProtocolError):
                    # The API server may close an idle connection at the moment in which it is used again.
                    if last:
                        raise
                await asyncio.sleep(1.0)
        return Answer(answer.status_code, msgspec.json.decode(answer.content))


class Seen:
    """The newest version of every object by name, and what it went through."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.versions: Counter[str] = Counter()
        """How many versions of each object there were: each is somebody's write."""
        self.phases: defaultdict[str, set[str]] = defaultdict(set)

    def take(self, kind: str, body: dict[str, Any]) -> None:
        """One event of a watch."""
        metadata = body["metadata"]
        metadata.pop("managedFields", None)
        name = metadata["name"]
        self.versions[name] += 1
        self.phases[name].add(phase_of(body))
        if kind == "DELETED":
            self.objects.pop(name, None)
        else:
            self.objects[name] = body


def phase_of(body: Mapping[str, Any]) -> str:
    """The phase that an object tells."""
    return str(body.get("status", {}).get("phase", ""))
