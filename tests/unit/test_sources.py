"""Secrets that could not be used are looked at again, in rounds whose cost has a bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest

from watcher.sources import LOOK_SECONDS, LOOKS, SecretData, SecretName, Sources

pytestmark = pytest.mark.looptime

ONE = SecretName("data", "one")


@dataclass
class Secret:
    resource_version: str
    type: str = "dbtrun.dev/connection"
    data: Mapping[str, bytes] = field(default_factory=dict)


class Stored:
    """The Secrets of a cluster, by name their version, and who asked."""

    def __init__(self) -> None:
        self.versions: dict[SecretName, str] = {}
        self.broken: set[SecretName] = set()
        self.read_names: list[SecretName] = []
        self.meanwhile: Callable[[], None] = lambda: None
        """What happens while a Secret is read."""

    async def read(self, namespace: str, name: str) -> SecretData:
        secret = SecretName(namespace, name)
        self.read_names.append(secret)
        self.meanwhile()
        if secret in self.broken:
            raise RuntimeError("the API server is away")
        if secret not in self.versions:
            raise LookupError("There is none.")
        return Secret(self.versions[secret])

    def forget(self, namespace: str, name: str) -> None: ...


class Round:
    def __init__(self) -> None:
        self.stored = Stored()
        self.woken: list[str] = []
        self.sources = Sources(self.stored)

    async def fail(self, uid: str, secret: SecretName) -> None:
        """An object reads its Secret and cannot use it."""
        with suppress(LookupError, RuntimeError):
            await self.sources.read(uid, secret)
        self.sources.doubt(uid)
        self.stored.read_names.clear()

    def changed(self, uids: Collection[str]) -> None:
        self.woken.extend(uids)


@asynccontextmanager
async def looking() -> AsyncIterator[Round]:
    it = Round()
    task = asyncio.create_task(it.sources.run(it.changed))
    yield it
    assert not task.done(), "it goes on"
    task.cancel()


async def rounds(count: int) -> None:
    await asyncio.sleep((count + 0.5) * LOOK_SECONDS)


async def test_a_secret_that_appears_wakes_all_who_wait_for_it_and_none_twice() -> None:
    async with looking() as it:
        for uid in ("a", "b"):
            await it.fail(uid, ONE)
        await rounds(1)
        assert it.woken == []
        it.stored.versions[ONE] = "7"
        await rounds(3)
    assert it.woken == ["a", "b"]


async def test_an_object_that_goes_while_another_secret_is_read_ends_nothing() -> None:
    async with looking() as it:
        for uid, secret in (("a", ONE), ("b", SecretName("data", "two"))):
            await it.fail(uid, secret)
        it.stored.meanwhile = lambda: it.sources.forget("b")
        await rounds(2)
    assert it.stored.read_names == [ONE, ONE]


async def test_an_object_that_goes_while_its_secret_is_read_is_not_woken() -> None:
    async with looking() as it:
        await it.fail("a", ONE)
        it.stored.versions[ONE] = "7"
        it.stored.meanwhile = lambda: it.sources.forget("a")
        await rounds(2)
    assert it.woken == []


async def test_many_objects_that_wait_for_one_secret_cost_one_look_a_round() -> None:
    async with looking() as it:
        for number in range(1000):
            await it.fail(f"uid-{number}", ONE)
        await rounds(2)
    assert it.stored.read_names == [ONE, ONE]


async def test_only_so_many_secrets_are_looked_at_in_a_round_and_each_has_its_turn() -> None:
    names = [SecretName("data", f"secret-{number}") for number in range(2 * LOOKS)]
    async with looking() as it:
        for name in names:
            await it.fail(name.name, name)
        await rounds(1)
        assert len(it.stored.read_names) == LOOKS
        await asyncio.sleep(LOOK_SECONDS)
    assert it.stored.read_names == names


async def test_an_unusable_secret_wakes_by_another_version_only() -> None:
    async with looking() as it:
        it.stored.versions[ONE] = "7"
        await it.fail("a", ONE)
        await rounds(2)
        assert it.woken == []
        it.stored.versions[ONE] = "8"
        await rounds(1)
    assert it.woken == ["a"]


async def test_a_deleted_secret_wakes_nobody() -> None:
    async with looking() as it:
        await it.fail("a", ONE)
        await rounds(2)
    assert it.woken == []


async def test_who_needs_it_no_more_is_not_woken() -> None:
    async with looking() as it:
        await it.fail("a", ONE)
        it.sources.forget("a")
        it.sources.forget("a")
        it.stored.versions[ONE] = "7"
        await rounds(2)
    assert (it.woken, it.stored.read_names) == ([], [])


async def test_whatever_one_secret_does_the_others_are_looked_at() -> None:
    other = SecretName("data", "other")
    async with looking() as it:
        it.stored.broken.add(ONE)
        await it.fail("a", ONE)
        await it.fail("b", other)
        it.stored.versions[other] = "7"
        await rounds(2)
    assert it.woken == ["b"]
