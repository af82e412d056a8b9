"""The stream against the real API server: the mirror becomes true and stays true, whatever happens to the watch."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import kopf
import msgspec
import pytest

from dbtrun.api import Phase, Status
from dbtrun.kube.config import Timeouts
from tests.cluster.objects import create, delete, install_crd, kubeconfig_to, raw, until
from tests.controlplane import ControlPlane
from tests.patience import patience
from tests.stack.proxy import Proxy
from watcher.cluster.access import ClusterAccess
from watcher.cluster.mirror import Mirror
from watcher.cluster.scope import StreamSettings
from watcher.cluster.stream import Stream, StreamBroken
from watcher.cluster.writer import Writer

QUICK = StreamSettings(retry_first=0.1, retry_most=0.3)


def doubtful() -> StreamSettings:
    """One that soon doubts its watch, but not because this machine is busy."""
    return replace(QUICK, prune_every=0.4, stall_after=patience(1.0))


class Followed:
    """A running stream and all that it has told."""

    def __init__(
        self,
        access: ClusterAccess,
        namespaces: tuple[str, ...],
        settings: StreamSettings,
        on_restart: Callable[[], None] = lambda: None,
    ) -> None:
        self.mirror = Mirror()
        self.woken: list[str] = []
        self.restarts: list[str] = []
        self.stream = Stream(
            access,
            self.mirror,
            self.woken.append,
            namespaces=namespaces,
            settings=settings,
            on_restart=self._restarted,
        )
        self._on_restart = on_restart

    def _restarted(self, why: str) -> None:
        self.restarts.append(why)
        self._on_restart()

    def names(self) -> set[str]:
        return {run.metadata.name for run in self.mirror}

    def phase(self, namespace: str, name: str) -> Phase | None:
        run = self.mirror.find(namespace, name)
        return run.status.phase if run else None


@asynccontextmanager
async def following(
    kubeconfig: Path, *namespaces: str, settings: StreamSettings = QUICK, wait: bool = True
) -> AsyncIterator[Followed]:
    async with AsyncExitStack() as stack:
        access = await ClusterAccess.load(kubeconfig, timeouts=Timeouts(total=patience(2.0)))
        stack.push_async_callback(access.close)
        followed = Followed(access, namespaces, settings)
        task = asyncio.create_task(followed.stream.run())
        try:
            if wait:
                async with asyncio.timeout(patience(30)):
                    await followed.stream.synced.wait()
            yield followed
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_what_exists_is_known_once_it_is_synced(
    admin: ClusterAccess, served: ControlPlane, namespace: str
) -> None:
    names = {f"run-{n}" for n in range(5)}
    for name in names:
        await create(admin, namespace, name)
    async with following(served.kubeconfig, namespace, settings=replace(QUICK, page_size=2)) as followed:
        assert followed.names() == names
        assert set(followed.woken) == followed.mirror.uids()


async def test_creation_change_and_deletion_arrive(admin: ClusterAccess, served: ControlPlane, namespace: str) -> None:
    async with following(served.kubeconfig, namespace) as followed:
        uid = (await create(admin, namespace, "run"))["metadata"]["uid"]
        await until(lambda: "run" in followed.names())
        writer = Writer(admin)
        await writer.patch_status(await writer.get(namespace, "run"), Status(phase=Phase.RUNNING))
        await until(lambda: followed.phase(namespace, "run") is Phase.RUNNING)
        await delete(admin, namespace, "run")
        await until(lambda: not followed.names())
        assert followed.woken == [uid] * 3


async def test_all_namespaces_are_followed_when_none_is_named(
    admin: ClusterAccess, served: ControlPlane, namespace: str
) -> None:
    async with following(served.kubeconfig) as followed:
        await create(admin, namespace, "anywhere")
        await until(lambda: "anywhere" in followed.names())


async def test_other_namespaces_are_not_followed(admin: ClusterAccess, served: ControlPlane, namespace: str) -> None:
    async with following(served.kubeconfig, namespace) as followed:
        await create(admin, "default", "stranger")
        await create(admin, namespace, "ours")
        await until(lambda: "ours" in followed.names())
        await delete(admin, "default", "stranger")
        assert followed.names() == {"ours"}


async def test_a_namespace_may_come_into_being_later(
    admin: ClusterAccess, served: ControlPlane, namespace: str
) -> None:
    later = f"{namespace}-later"
    async with following(served.kubeconfig, namespace, later) as followed:
        served.create_namespace_sync(later)
        await create(admin, later, "run")
        await until(lambda: "run" in followed.names())
        served.delete_namespace_sync(later)


async def test_following_writes_nothing_to_an_object(
    admin: ClusterAccess, served: ControlPlane, namespace: str
) -> None:
    async with following(served.kubeconfig, namespace, settings=doubtful()) as followed:
        created = await create(admin, namespace, "run")
        await until(lambda: "run" in followed.names())
    assert await raw(admin, namespace, "run") == created


async def test_stopping_takes_less_than_a_second(admin: ClusterAccess, served: ControlPlane, namespace: str) -> None:
    async with following(served.kubeconfig, namespace) as followed:
        for n in range(20):
            await create(admin, namespace, f"run-{n}")
        await until(lambda: len(followed.mirror) == 20)
        began = time.monotonic()
    assert time.monotonic() - began < patience(1.0)


async def test_no_kubeconfig_of_the_user_is_ever_used(
    admin: ClusterAccess, served: ControlPlane, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.setblocking(False)
        poisoned = kubeconfig_to(f"https://127.0.0.1:{trap.getsockname()[1]}", served.kubeconfig, tmp_path)
        (tmp_path / ".kube").mkdir()
        (tmp_path / ".kube/config").write_text(poisoned.read_text())
        monkeypatch.setenv("KUBECONFIG", str(poisoned))
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{trap.getsockname()[1]}")
        async with following(served.kubeconfig, namespace) as followed:
            await create(admin, namespace, "run")
            await until(lambda: "run" in followed.names())
        with pytest.raises(BlockingIOError):
            trap.accept()


# What the ServiceAccount may do.


async def account(plane: ControlPlane, namespace: str, *verbs: str) -> Path:
    await plane.kubectl("-n", namespace, "create", "serviceaccount", "follower")
    await plane.kubectl(
        "-n",
        namespace,
        "create",
        "rolebinding",
        "follower",
        "--role=follower",
        f"--serviceaccount={namespace}:follower",
    )
    await allow(plane, namespace, *verbs)
    return await plane.kubeconfig_for(namespace, "follower")


async def grant(plane: ControlPlane, namespace: str, subject: str) -> None:
    await plane.kubectl(
        "-n", namespace, "create", "rolebinding", "follower", "--role=follower", f"--serviceaccount={subject}"
    )
    await allow(plane, namespace, "list", "watch")


async def allow(plane: ControlPlane, namespace: str, *verbs: str) -> None:
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "follower", "namespace": namespace},
        "rules": [{"apiGroups": ["dbtrun.dev"], "resources": ["dbtruns"], "verbs": list(verbs)}] if verbs else [],
    }
    await plane.kubectl("apply", "-f", "-", input=msgspec.json.encode(role).decode())


async def test_list_and_watch_are_all_it_needs(admin: ClusterAccess, served: ControlPlane, namespace: str) -> None:
    async with following(await account(served, namespace, "list", "watch"), namespace, settings=doubtful()) as followed:
        await create(admin, namespace, "run")
        await until(lambda: "run" in followed.names())
        assert followed.stream.problem is None


async def test_a_missing_right_is_told_and_heals_when_it_is_given(
    admin: ClusterAccess, served: ControlPlane, namespace: str
) -> None:
    kubeconfig = await account(served, namespace)
    async with following(kubeconfig, namespace, wait=False) as followed:
        await until(lambda: followed.stream.problem)
        assert f"The namespace {namespace} is not served: the watcher needs the verbs list and watch" in str(
            followed.stream.problem
        )
        assert not followed.stream.synced.is_set()
        await allow(served, namespace, "list", "watch")
        await create(admin, namespace, "run")
        await until(lambda: "run" in followed.names())
        await until(lambda: followed.stream.problem is None)


async def test_where_a_watch_is_forbidden_lists_go_on_in_its_place(
    admin: ClusterAccess, served: ControlPlane, namespace: str
) -> None:
    settings = replace(QUICK, give_up_after=1)
    async with following(await account(served, namespace, "list"), namespace, settings=settings) as followed:
        await until(lambda: "cannot watch resource" in str(followed.stream.problem))
        await create(admin, namespace, "run")
        await until(lambda: "run" in followed.names())


class Unable(ClusterAccess):
    """kopf cannot use what it is given."""

    async def kopf_login(self) -> kopf.ConnectionInfo:
        raise RuntimeError("no way in")


async def test_a_watch_that_never_works_ends_the_stream_with_its_reason(served: ControlPlane, namespace: str) -> None:
    access = await Unable.load(served.kubeconfig)
    stream = Stream(access, Mirror(), lambda _: None, namespaces=[namespace], settings=replace(QUICK, give_up_after=1))
    try:
        async with asyncio.timeout(patience(60)):
            with pytest.raises(StreamBroken, match=r"does not open|ended"):
                await stream.run()
    finally:
        await access.close()


# One namespace and the others.


async def test_a_missing_namespace_costs_the_others_nothing(
    admin: ClusterAccess, served: ControlPlane, namespace: str
) -> None:
    missing = f"{namespace}-missing"
    kubeconfig = await account(served, namespace, "list", "watch")
    async with following(kubeconfig, missing, namespace) as followed:
        await create(admin, namespace, "run")
        await until(lambda: "run" in followed.names())
        await until(lambda: followed.stream.unknown == ())
        assert list(followed.stream.problems) == [missing]
        assert followed.restarts == []
        served.create_namespace_sync(missing)
        try:
            await grant(served, missing, f"{namespace}:follower")
            await create(admin, missing, "late")
            await until(lambda: "late" in followed.names())
            await until(lambda: not followed.stream.problems)
        finally:
            served.delete_namespace_sync(missing)


async def test_a_namespace_whose_watch_ends_is_watched_again_and_the_others_go_on(
    admin: ClusterAccess, served: ControlPlane, namespace: str
) -> None:
    other = f"{namespace}-other"
    served.create_namespace_sync(other)
    async with following(served.kubeconfig, namespace, other) as followed:
        await until(lambda: followed.stream.unknown == ())
        scope = followed.stream.scopes[other]
        before = set(threading.enumerate())
        assert scope._watching is not None
        scope._watching.finish(RuntimeError("as if kopf had ended it"))
        await until(lambda: followed.restarts)
        for place in (namespace, other):
            await create(admin, place, f"in-{place}")
        await until(lambda: {f"in-{namespace}", f"in-{other}"} <= followed.names())
        await asyncio.sleep(8)  # kopf waits five seconds for what it takes for its own, then cancels it
        assert [thread.name for thread in set(threading.enumerate()) - before if thread.name == "kopf"] == []
        assert len(followed.restarts) == 1
    served.delete_namespace_sync(other)


async def test_what_happened_in_a_gap_of_the_watch_is_listed(
    admin: ClusterAccess, served: ControlPlane, namespace: str
) -> None:
    settings = replace(QUICK, prune_every=3600, stall_after=3600)
    async with following(served.kubeconfig, namespace, settings=settings) as followed:
        await create(admin, namespace, "run")
        await until(lambda: "run" in followed.names())
        ghost = await raw(admin, namespace, "run")
        followed.mirror.apply("ADDED", ghost | {"metadata": ghost["metadata"] | {"uid": "ghost", "name": "ghost"}})
        followed.stream.scopes[namespace].opened("1")
        await until(lambda: "ghost" in followed.woken)


async def test_a_watch_that_opens_after_the_list_hides_nothing(
    admin: ClusterAccess, served: ControlPlane, namespace: str
) -> None:
    settings = replace(QUICK, open_within=0.0, prune_every=3600, stall_after=3600)
    async with following(served.kubeconfig, namespace, settings=settings) as followed:
        await create(admin, namespace, "between")
        await until(lambda: "between" in followed.names())


# What the watch does not tell.


async def test_a_missed_deletion_is_noticed_by_a_list(
    admin: ClusterAccess, served: ControlPlane, namespace: str
) -> None:
    async with following(served.kubeconfig, namespace, settings=doubtful()) as followed:
        body = await create(admin, namespace, "real")
        await until(lambda: "real" in followed.names())
        ghost = body["metadata"] | {"uid": "ghost", "name": "ghost"}
        followed.mirror.apply("ADDED", body | {"metadata": ghost})
        await until(lambda: "ghost" in followed.woken)
        assert followed.names() == {"real"}


async def test_a_dead_watch_is_replaced_when_a_list_shows_more(
    admin: ClusterAccess, served: ControlPlane, namespace: str, proxy: Proxy, through: Path
) -> None:
    async with following(through, namespace, settings=doubtful()) as followed:
        await create(admin, namespace, "before")
        await until(lambda: "before" in followed.names())
        proxy.freeze()
        await create(admin, namespace, "after")
        await until(lambda: "after" in followed.names())
        assert len(followed.restarts) == 1
        assert "did not deliver a known version" in followed.restarts[0]


async def test_a_dead_watch_is_noticed_by_our_own_writes(
    admin: ClusterAccess, served: ControlPlane, namespace: str, proxy: Proxy, through: Path
) -> None:
    async with following(through, namespace, settings=replace(QUICK, stall_after=1.0)) as followed:
        await create(admin, namespace, "run")
        await until(lambda: "run" in followed.names())
        proxy.freeze()
        writer = Writer(admin)
        followed.mirror.record(await writer.patch_status(await writer.get(namespace, "run"), Status(message="m")))
        await until(lambda: followed.restarts)


async def test_a_watch_that_brings_nothing_at_all_is_opened_anew(
    admin: ClusterAccess, served: ControlPlane, namespace: str, proxy: Proxy, through: Path
) -> None:
    """A connection of which the other end is gone: no list and no write of ours gives it away."""
    settings = replace(QUICK, silent_after=2.0, stall_after=3600, prune_every=3600)
    async with following(through, namespace, settings=settings) as followed:
        await create(admin, namespace, "before")
        await until(lambda: "before" in followed.names())
        proxy.freeze()
        await create(admin, namespace, "after")
        await until(lambda: "after" in followed.names())
        assert followed.restarts == [], "kopf does it by itself"


class StuckOnce(ClusterAccess):
    """The first time that kopf logs in, its thread stands still."""

    released: threading.Event

    async def kopf_login(self) -> kopf.ConnectionInfo:
        self.released.wait()
        return await super().kopf_login()


async def test_a_kopf_whose_thread_stands_still_is_replaced(
    admin: ClusterAccess, served: ControlPlane, namespace: str
) -> None:
    access = await StuckOnce.load(served.kubeconfig)
    access.released = threading.Event()
    followed = Followed(access, (namespace,), doubtful(), on_restart=access.released.set)
    task = asyncio.create_task(followed.stream.run())
    await create(admin, namespace, "run")
    await until(lambda: followed.restarts)
    assert "it does not open" in followed.restarts[0]
    await create(admin, namespace, "later")
    await until(lambda: "later" in followed.names())
    assert followed.stream.silent() < patience(30)
    task.cancel()
    await asyncio.wait({task})
    await access.close()


async def test_a_watch_that_works_is_left_alone(admin: ClusterAccess, served: ControlPlane, namespace: str) -> None:
    stall_after = patience(3.0)  # longer than a busy machine takes to bring a change
    async with following(
        served.kubeconfig, namespace, settings=replace(doubtful(), stall_after=stall_after)
    ) as followed:
        writer = Writer(admin)
        await create(admin, namespace, "run")
        run = await writer.get(namespace, "run")
        for n in range(15):
            run = await writer.patch_status(run, Status(message=f"{n}"))
            followed.mirror.record(run)
            await asyncio.sleep(stall_after / 10)
        assert followed.restarts == []


# What happens to the API server.


async def test_a_missing_crd_is_told_once_and_followed_when_it_is_installed(
    own_plane: ControlPlane, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "watcher.cluster.stream")
    async with following(own_plane.kubeconfig, settings=QUICK, wait=False) as followed:
        await until(lambda: followed.stream.problem)
        assert "CRD dbtruns.dbtrun.dev is not installed" in str(followed.stream.problem)
        await asyncio.to_thread(install_crd, own_plane)
        access = await ClusterAccess.load(own_plane.kubeconfig)
        await create(access, "default", "run")
        await until(lambda: "run" in followed.names())
        assert caplog.text.count("is not installed") == 1

        await own_plane.kubectl("delete", "crd", "dbtruns.dbtrun.dev")
        await until(lambda: not followed.names())
        await asyncio.to_thread(install_crd, own_plane)
        await create(access, "default", "again")
        await until(lambda: followed.names() == {"again"}, 60)
        await access.close()


async def test_an_api_server_that_was_away_is_followed_again(own_plane: ControlPlane) -> None:
    await asyncio.to_thread(install_crd, own_plane)
    access = await ClusterAccess.load(own_plane.kubeconfig)
    for name in ("stays", "goes"):
        await create(access, "default", name)
    settings = replace(QUICK, prune_every=3600, stall_after=10)
    async with following(own_plane.kubeconfig, settings=settings) as followed:
        await until(lambda: len(followed.mirror) == 2)
        await own_plane.kill_apiserver()
        await own_plane.start_apiserver()
        await delete(access, "default", "goes")
        await create(access, "default", "comes")
        await until(lambda: followed.names() == {"stays", "comes"}, 60)
    await access.close()
