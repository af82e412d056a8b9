"""Secrets read from the real API server, with no more rights than the chart gives."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator

import pytest

from dbtrun.kube.paths import api_path
from tests.controlplane import ControlPlane
from watcher.cluster.access import ClusterAccess
from watcher.cluster.secrets import SecretForbidden, SecretMissing, SecretReader

TOKEN = b"dbtc_very-secret"


async def put(admin: ClusterAccess, namespace: str, token: bytes = TOKEN) -> None:
    secret = {
        "metadata": {"name": "dbt"},
        "type": "dbtrun.dev/connection",
        "data": {"token": base64.b64encode(token).decode()},
    }
    await admin.request("POST", api_path("api/v1", namespace, "secrets"), body=secret)


async def replace(admin: ClusterAccess, namespace: str, token: bytes) -> None:
    await admin.request("DELETE", api_path("api/v1", namespace, "secrets", "dbt"))
    await put(admin, namespace, token)


@pytest.fixture
def reader(admin: ClusterAccess) -> SecretReader:
    return SecretReader(admin)


@pytest.fixture
async def powerless(served: ControlPlane, namespace: str) -> AsyncIterator[ClusterAccess]:
    access = await ClusterAccess.load(await served.kubeconfig_for(namespace, "default"))
    yield access
    await access.close()


async def test_a_secret_is_read_with_its_type(admin: ClusterAccess, reader: SecretReader, namespace: str) -> None:
    await put(admin, namespace)
    secret = await reader.read(namespace, "dbt")
    assert secret.type == "dbtrun.dev/connection"
    assert secret.data == {"token": TOKEN}


async def test_its_repr_keeps_the_secret(admin: ClusterAccess, reader: SecretReader, namespace: str) -> None:
    await put(admin, namespace)
    shown = repr(await reader.read(namespace, "dbt"))
    assert "token" in shown
    assert TOKEN.decode() not in shown
    assert base64.b64encode(TOKEN).decode() not in shown


async def test_a_secret_is_read_once_until_it_is_forgotten(
    admin: ClusterAccess, reader: SecretReader, namespace: str
) -> None:
    await put(admin, namespace)
    await reader.read(namespace, "dbt")
    await replace(admin, namespace, b"rotated")
    assert (await reader.read(namespace, "dbt")).data["token"] == TOKEN
    reader.forget(namespace, "dbt")
    assert (await reader.read(namespace, "dbt")).data["token"] == b"rotated"


async def test_a_secret_is_read_again_when_it_is_old(admin: ClusterAccess, namespace: str) -> None:
    reader = SecretReader(admin, fresh_seconds=0.0)
    await put(admin, namespace)
    await reader.read(namespace, "dbt")
    await replace(admin, namespace, b"rotated")
    assert (await reader.read(namespace, "dbt")).data["token"] == b"rotated"


async def test_a_missing_secret_is_named_and_found_when_it_comes(
    admin: ClusterAccess, reader: SecretReader, namespace: str
) -> None:
    with pytest.raises(SecretMissing, match=f"no Secret 'dbt' in the namespace {namespace}"):
        await reader.read(namespace, "dbt")
    await put(admin, namespace)
    assert (await reader.read(namespace, "dbt")).data == {"token": TOKEN}


@pytest.mark.parametrize("name", ["..", ".", ""])
async def test_no_name_leads_to_another_resource(reader: SecretReader, namespace: str, name: str) -> None:
    with pytest.raises(SecretMissing):
        await reader.read(namespace, name)


async def test_a_forbidden_secret_says_what_allows_it(powerless: ClusterAccess, namespace: str) -> None:
    with pytest.raises(
        SecretForbidden, match=f"Secret 'dbt' in the namespace {namespace}: add the namespace to secretNamespaces"
    ):
        await SecretReader(powerless).read(namespace, "dbt")
