"""Whatever a user gets wrong is one sentence that says what to do: never a traceback, never a token."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio
import yaml
from click.testing import CliRunner

from dbtrun.cli.main import main
from tests.controlplane import ControlPlane
from tests.plain import plain_http
from tests.stack import Program, Stack, dbt_run, until
from tests.stack.dbt import ACCOUNT
from tests.stack.site import CRD, ROOT
from tests.stack.stack import SECRET
from watcher.settings import described

TOKEN: Final = "dbtc_never_to_be_seen"
"""Stands in every broken kubeconfig."""
NOISE: Final = bytes(range(128, 256))

module = pytest.mark.asyncio(loop_scope="module")


# ── words on the command line ──


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--listen", "8080"], "--listen is '8080': write HOST:PORT"),
        (["--listen", "127.0.0.1:"], "--listen is '127.0.0.1:': write HOST:PORT"),
        (["--requests-per-minute", "many"], "'--requests-per-minute'"),
        (["--requests-per-minute", "0"], "--requests-per-minute is 0: it must be a number greater than 0."),
        (["--feed-interval-seconds", "-1"], "--feed-interval-seconds is -1.0: it must be a number greater than 0."),
        (["--submit-window-seconds", "nan"], "--submit-window-seconds is nan: it must be a number greater than 0."),
        (["--quiet-period-seconds", "1"], "--quiet-period-seconds is 1: it must be at least"),
        (["--log-level", "loud"], "--log-level is 'loud': it is one of debug, info, warning, error."),
        (["--log-format", "xml"], "--log-format is 'xml': it is one of json, text."),
        (["--namespaces", "team-*"], "--namespaces has 'team-*', which is not a valid namespace name"),
        (["--lease-name", "a/b"], "--lease-name is 'a/b'"),
        (["--colour"], "No such option"),
        (["now"], "unexpected extra argument"),
    ],
)
def test_a_wrong_word_is_a_usage_error(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(main, ["watcher", *arguments])
    assert_one_sentence(result.output, words)
    assert result.exit_code == 2


@pytest.mark.parametrize("name", [name for name, _, default in described() if not isinstance(default, str)])
def test_a_wrong_variable_is_named(name: str) -> None:
    variable = f"DBTRUN_{name.upper()}"
    result = CliRunner(env={variable: "much"}).invoke(main, ["watcher"])
    assert_one_sentence(result.output, variable)
    assert result.exit_code == 2


def test_an_unknown_command_is_a_usage_error() -> None:
    result = CliRunner().invoke(main, ["rum"])
    assert_one_sentence(result.output, "No such command 'rum'")
    assert result.exit_code == 2


# ── where to listen, and the way to the API server ──


async def test_a_taken_port_is_named_by_the_process_and_its_exit_code(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        env = {"HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "DBTRUN_LISTEN": address}
        watcher = Program("watcher", [sys.executable, "-m", "dbtrun", "watcher"], env, tmp_path / "watcher.log")
        watcher.start()
        assert await watcher.wait(60) == 1
        assert (
            watcher.text() == f"Error: Cannot listen on {address}: Address already in use; choose another --listen.\n"
        )


@pytest.mark.parametrize("host", ["256.1.1.1", "host.invalid", "x" * 70])
def test_an_address_that_is_not_ours_is_named(host: str) -> None:
    assert_refused(f"Cannot listen on {host}:80: .*; choose another --listen", "--listen", f"{host}:80")


def test_outside_of_a_pod_a_kubeconfig_is_asked_for() -> None:
    assert_refused(r"not a pod with a ServiceAccount .*; outside of a pod, name a kubeconfig with --kubeconfig")


def test_a_missing_kubeconfig_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "kubeconfig")
    assert_refused(f"The kubeconfig {missing} does not exist", "--kubeconfig", missing)


GOOD: Final = {
    "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
    "users": [{"name": "u", "user": {"token": TOKEN}}],
    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    "current-context": "x",
}
BAD_CA: Final = {"server": "https://127.0.0.1:1", "certificate-authority-data": "bm8gY2VydGlmaWNhdGU="}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (f"users: [token: {TOKEN}".encode(), r"it is not YAML \(line 1\)"),
        (f"the token is {TOKEN}".encode(), "it is not a kubeconfig"),
        (b"", "it is not a kubeconfig"),
        (NOISE, "it is not a kubeconfig"),
        (yaml.safe_dump(GOOD | {"current-context": "y"}).encode(), "y"),
        (yaml.safe_dump(GOOD | {"clusters": []}).encode(), "c"),
        (yaml.safe_dump(GOOD | {"clusters": [{"name": "c", "cluster": BAD_CA}]}).encode(), "certificate"),
    ],
    ids=["broken", "text", "empty", "noise", "context", "cluster", "ca"],
)
def test_a_kubeconfig_that_is_none_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_bytes(content)
    found = f"The kubeconfig {kubeconfig} cannot be used: .*{words}"
    assert_refused(found, "--kubeconfig", str(kubeconfig))


def test_a_context_that_is_not_there_is_named(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(GOOD))
    assert_refused("elsewhere", "--kubeconfig", str(kubeconfig), "--context", "elsewhere")


# ── an API server that does not serve us ──


async def test_an_api_server_that_cannot_be_reached_is_told_and_tried_again(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(GOOD))
    async with watching(tmp_path, kubeconfig) as watcher:
        await watcher.says("cannot be listed: No answer from https://127.0.0.1:1")
        status, words = await readiness(watcher)
        assert status == 503
        assert "cannot be listed: No answer from" in words
        assert await watcher.stop() == 0


async def test_a_missing_crd_is_told_until_it_comes(own_plane: ControlPlane, tmp_path: Path) -> None:
    async with watching(tmp_path, own_plane.kubeconfig) as watcher:
        await watcher.says(r"The CRD dbtruns\.dbtrun\.dev is not installed: install the chart")
        assert (await readiness(watcher))[0] == 503
        await own_plane.kubectl("apply", "-f", str(CRD))
        await watcher.says("Watching 0 DbtRuns")

        async def nothing_left_to_say() -> bool:
            return await readiness(watcher) == (200, "ok")

        await until(nothing_left_to_say, 60, "the watcher is ready and names no problem")


async def test_missing_rights_name_the_verbs(served: ControlPlane, namespace: str, tmp_path: Path) -> None:
    kubeconfig = await served.kubeconfig_for(namespace, "default")
    async with watching(tmp_path, kubeconfig, namespace) as watcher:
        await watcher.says(
            f"The namespace {namespace} is not served: the watcher needs the verbs list and watch on dbt"
        )
        await watcher.says(f"The Lease {namespace}/dbtrun-watcher: .*leases")
        assert (await readiness(watcher))[0] == 503


# ── the connection ──


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    await asyncio.to_thread(plane.create_namespace_sync, "bad-input")
    folder = tmp_path_factory.mktemp("bad-input")
    async with Stack.up(plane, "bad-input", folder, connected=False) as stack:
        yield stack


BROKEN: Final[dict[str, tuple[dict[str, str | None], str]]] = {
    "no-token": ({"token": None}, "key `token` is missing"),
    "empty-token": ({"token": "\n"}, "key `token` is empty"),
    "two-tokens": ({"token": "dbtc_a dbtc_b"}, "key `token` has spaces"),
    "no-account": ({"account-id": None}, "key `account-id` is missing"),
    "token-as-account": ({"account-id": "TOKEN"}, "key `account-id` is not the number of an account"),
    "empty-host": ({"host": ""}, "key `host` is empty"),
    "token-as-host": ({"host": "TOKEN"}, "key `host` is not a host name"),
    "host-with-path": ({"host": "cloud.getdbt.com/api"}, "key `host` has a path"),
    "host-in-clear": ({"host": "http://dbt.example.com"}, "key `host` would send the token unencrypted"),
    "token-in-host": ({"host": "https://TOKEN@dbt.example.com"}, "key `host` contains a user"),
    "bad-ca": ({"ca.crt": "TOKEN"}, "key `ca.crt` holds no PEM certificates"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def told(stack: Stack) -> dict[str, str]:
    """What each object says whose Secret is broken in one way."""
    good = {"token": stack.token, "account-id": str(ACCOUNT), "host": stack.url}
    for name, (change, _) in BROKEN.items():
        keys = {key: value for key, value in (good | change).items() if value is not None}
        hidden = {key: value.replace("TOKEN", stack.token) for key, value in keys.items()}
        await stack.apply(stack.secret(name, hidden), dbt_run(name, connectionRef={"name": name}))
    return {name: await message(stack, name) for name in BROKEN}


@module
@pytest.mark.parametrize("name", BROKEN)
async def test_a_broken_key_of_a_secret_is_told_on_the_object(told: dict[str, str], name: str) -> None:
    assert told[name].startswith(f"Secret bad-input/{name}: {BROKEN[name][1]}")
    assert told[name].endswith(".")


@module
async def test_a_token_that_dbt_cloud_refuses_is_told_on_the_object(stack: Stack) -> None:
    keys = {"token": "dbtc_of_somebody_else", "account-id": str(ACCOUNT), "host": stack.url}
    await stack.apply(stack.secret("refused", keys), dbt_run("refused", connectionRef={"name": "refused"}))
    status = await stack.reaches("refused", "Pending", reason="Unauthorized")
    assert "dbtc_of_somebody_else" not in json.dumps(status)
    assert await stack.runs() == []


@module
async def test_a_host_that_does_not_answer_is_told_and_the_corrected_one_is_used_within_seconds(stack: Stack) -> None:
    keys = {"token": stack.token, "account-id": str(ACCOUNT)}
    wrong = stack.secret("misspelt", keys | {"host": "https://no-such-host.localhost"})
    await stack.apply(wrong, dbt_run("misspelt", connectionRef={"name": "misspelt"}))
    await stack.reaches("misspelt", "Pending", reason="Unreachable")
    await stack.apply(stack.secret("misspelt", keys | {"host": stack.url}))
    await stack.reaches("misspelt", "Succeeded")


@module
async def test_a_default_connection_says_what_it_lacks_and_is_used_once_it_is_mended(stack: Stack) -> None:
    where = f"Secret {stack.namespace}/{SECRET}"
    keys = {"token": stack.token, "account-id": str(ACCOUNT), "host": stack.url}
    await stack.apply(dbt_run("default"))
    assert await message(stack, "default") == f"There is no Secret '{SECRET}' in the namespace {stack.namespace}."
    await stack.apply(stack.secret(SECRET, keys, kind="Opaque"))
    await says(stack, "default", f"{where} is of type Opaque, not dbtrun.dev/connection")
    await stack.kubectl("delete", "secret", SECRET)
    await stack.apply(stack.secret(SECRET, keys | {"account-id": ""}))
    await says(stack, "default", f"{where}: key `account-id` is ")
    await stack.apply(stack.secret(SECRET, keys))
    await stack.reaches("default", "Succeeded")


async def says(stack: Stack, name: str, words: str) -> None:
    async def told() -> bool:
        return str((await stack.status(name)).get("message")).startswith(words)

    await until(told, 60, f"{name} saying {words!r}")


async def test_a_directory_of_a_default_connection_says_what_it_lacks(
    plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    folder = tmp_path / "connection"
    settings = {"DBTRUN_CONNECTION_SECRET": "", "DBTRUN_CONNECTION_DIR": str(folder)}
    async with Stack.up(plane, namespace, tmp_path, settings=settings, connected=False) as stack:
        where = f"The default connection in {folder}"
        await stack.apply(dbt_run("no-folder"))
        assert await message(stack, "no-folder") == (
            f"The default connection's directory {folder} does not exist: mount its Secret there."
        )
        folder.mkdir()
        (folder / "account-id").write_text(str(ACCOUNT))
        await stack.apply(dbt_run("no-token-file"))
        assert (await message(stack, "no-token-file")).startswith(f"{where}: key `token` is missing")
        (folder / "token").write_text(stack.token)
        (folder / "account-id").write_bytes(NOISE)
        await stack.apply(dbt_run("noise"))
        assert (await message(stack, "noise")).startswith(f"{where}: key `account-id` is not UTF-8 text")
        (folder / "account-id").unlink()
        (folder / "account-id").mkdir()
        await stack.apply(dbt_run("folder-for-a-file"))
        assert "account-id cannot be read" in await message(stack, "folder-for-a-file")
        (folder / "account-id").rmdir()
        (folder / "account-id").write_text(str(ACCOUNT))
        (folder / "host").write_text(stack.url)
        await stack.apply(dbt_run("mended"))
        await stack.reaches("mended", "Succeeded")


async def message(stack: Stack, name: str) -> str:
    """What the object says about its connection, in its status and in the condition."""
    status = await stack.reaches(name, "Pending", reason="InvalidConnection")
    reachable = next(c for c in status["conditions"] if c["type"] == "Reachable")
    assert (reachable["status"], reachable["message"]) == ("False", status["message"])
    return str(status["message"])


# ── helpers ──


def assert_one_sentence(output: str, words: str) -> None:
    """What click shows of an error, and nothing after it."""
    assert "Traceback" not in output
    error = output.partition("Error: ")[2]
    assert words in error
    assert error.strip().count("\n") == 0


def assert_refused(pattern: str, *arguments: str) -> None:
    """`dbtrun watcher` ends with exit code 1 and this sentence."""
    result = CliRunner(env={"KUBERNETES_SERVICE_HOST": None}).invoke(
        main, ["watcher", "--listen", "127.0.0.1:0", *arguments]
    )
    assert re.fullmatch(f"Error: .*{pattern}.*\n", result.output), result.output
    assert TOKEN not in result.output
    assert result.exit_code == 1


@asynccontextmanager
async def watching(folder: Path, kubeconfig: Path, namespace: str = "default") -> AsyncIterator[Program]:
    """A watcher that finds something wrong, and goes on without a traceback."""
    env = {"HOME": str(folder), "PYTHONPATH": str(ROOT), "DBTRUN_NAMESPACES": namespace, "POD_NAMESPACE": namespace}
    argv = [sys.executable, "-m", "dbtrun", "watcher", "--kubeconfig", str(kubeconfig), "--listen", "127.0.0.1:0"]
    watcher = Program("watcher", argv, env, folder / "watcher.log")
    watcher.start()
    try:
        yield watcher
        assert "Traceback" not in watcher.text()
        assert TOKEN not in watcher.text()
    finally:
        if watcher.running:
            await watcher.kill()


async def readiness(watcher: Program) -> tuple[int, str]:
    address = (await watcher.says(r"Listening on (\S+)\.\"")).group(1)
    async with plain_http() as http:

        async def answer() -> tuple[int, str] | None:
            got = await http.get(f"http://{address}/readyz")
            return got.status_code, got.text

        return await until(answer, what="an answer of /readyz")
