"""The way to the API server: by a kubeconfig that was named, or as the pod's ServiceAccount, and by nothing else."""

from __future__ import annotations

import datetime
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from kubernetes_asyncio.config import incluster_config

from dbtrun.kube import credentials
from dbtrun.kube.config import Timeouts
from dbtrun.kube.errors import KubeError, Misconfigured, NotFound
from dbtrun.kube.paths import api_path
from tests.controlplane import ControlPlane
from watcher.cluster.access import ClusterAccess

WHO = "apis/authentication.k8s.io/v1"


@asynccontextmanager
async def opened(access: ClusterAccess) -> AsyncIterator[ClusterAccess]:
    try:
        yield access
    finally:
        await access.close()


async def knock(access: ClusterAccess) -> None:
    await access.request("GET", "/version")
    await access.request("POST", f"/{WHO}/selfsubjectreviews", body={"kind": "SelfSubjectReview"})


async def pod(plane: ControlPlane, namespace: str, directory: Path) -> dict[str, str]:
    """What the kubelet gives to a pod."""
    (directory / "token").write_text(await plane.token(namespace, "default"))
    (directory / "ca.crt").write_bytes(plane.ca.read_bytes())
    server = urlsplit(plane.server)
    return {"KUBERNETES_SERVICE_HOST": str(server.hostname), "KUBERNETES_SERVICE_PORT": str(server.port)}


async def test_a_pod_uses_its_service_account(plane: ControlPlane, namespace: str, tmp_path: Path) -> None:
    environ = await pod(plane, namespace, tmp_path)
    async with opened(await ClusterAccess.load(folder=tmp_path, environ=environ)) as access:
        answer = await access.request("POST", f"/{WHO}/selfsubjectreviews", body={"kind": "SelfSubjectReview"})
        assert f"system:serviceaccount:{namespace}:default".encode() in answer


async def test_a_rotated_token_is_used_by_us_and_by_kopf(
    plane: ControlPlane, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incluster_config, "TOKEN_REFRESH_PERIOD", datetime.timedelta(0))
    environ = await pod(plane, namespace, tmp_path)
    rotated = (tmp_path / "token").read_text()
    (tmp_path / "token").write_text("expired")
    async with opened(await ClusterAccess.load(folder=tmp_path, environ=environ)) as access:
        with pytest.raises(KubeError, match="Unauthorized"):
            await knock(access)
        (tmp_path / "token").write_text(rotated)
        await knock(access)
        assert (await access.kopf_login()).token == rotated


async def test_a_token_that_changed_in_a_kubeconfig_is_used(
    plane: ControlPlane, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "REREAD_KUBECONFIG", 0.0)
    good = (await plane.kubeconfig_for(namespace, "default")).read_text()
    token = yaml.safe_load(good)["users"][0]["user"]["token"]
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(good.replace(token, "expired"))
    async with opened(await ClusterAccess.load(kubeconfig)) as access:
        with pytest.raises(KubeError, match="Unauthorized"):
            await knock(access)
        kubeconfig.write_text(good)
        await knock(access)
        kubeconfig.unlink()
        await knock(access)


async def test_proxies_and_netrc_of_the_environment_are_not_used(
    plane: ControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with opened(await ClusterAccess.load(plane.kubeconfig)) as access:
        await knock(access)
        assert (await access.kopf_login()).trust_env is False


async def test_a_server_that_accepts_and_never_answers_is_given_up(plane: ControlPlane, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        config = yaml.safe_load(plane.kubeconfig.read_text())
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{silent.getsockname()[1]}"
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(yaml.safe_dump(config))
        timeouts = Timeouts(connect=0.2, total=0.3)
        async with opened(await ClusterAccess.load(kubeconfig, timeouts=timeouts)) as access:
            with pytest.raises(KubeError, match="No answer from https://127"):
                await access.request("GET", "/version")


async def test_without_a_pod_or_a_kubeconfig_one_sentence_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"not a pod with a ServiceAccount.*name a kubeconfig"):
        await ClusterAccess.load(folder=tmp_path, environ={})


async def test_a_missing_kubeconfig_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="absent does not exist"):
        await ClusterAccess.load(tmp_path / "absent")


@pytest.mark.parametrize("text", ["", "[]", "a: [", "{}", "users: [{token: s3cret"])
async def test_a_broken_kubeconfig_is_one_sentence_without_its_content(tmp_path: Path, text: str) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(text)
    with pytest.raises(Misconfigured, match="cannot be used") as caught:
        await ClusterAccess.load(kubeconfig)
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_an_unknown_context_is_named(plane: ControlPlane) -> None:
    with pytest.raises(Misconfigured, match="elsewhere"):
        await ClusterAccess.load(plane.kubeconfig, "elsewhere")


async def test_a_context_without_a_kubeconfig_is_refused() -> None:
    with pytest.raises(Misconfigured, match="'prod' needs a kubeconfig"):
        await ClusterAccess.load(context="prod")


def test_a_name_cannot_leave_its_place() -> None:
    assert api_path("api/v1", "ns", "secrets", "a/../b") == "/api/v1/namespaces/ns/secrets/a%2F..%2Fb"
    with pytest.raises(ValueError, match="not a resource"):
        api_path("api/v1", "..", "secrets", "x")
    with pytest.raises(NotFound, match="not a resource"):
        api_path("api/v1", "ns", "secrets", ".")
