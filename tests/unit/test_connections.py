"""Which Secret an object's connection is read from, and which is never asked for."""

from __future__ import annotations

from contextlib import suppress
from unittest.mock import Mock

import pytest

from dbtrun.api import CONNECTION_SECRET_TYPE, ConnectionRef, DbtRun, Job, Metadata, Spec
from dbtrun.api.mirrors import DbtRunMirror, MirrorSpec, MirrorStatus, Select
from dbtrun.connection.hosts import Hosts
from watcher.connections import Connections, Misdirected, Unusable
from watcher.sources import SecretData, SecretName, Sources

DEFAULT = SecretName("dbtrun-system", "dbt-cloud")
SERVED = "team-a"


class Asked:
    """A cluster without Secrets, which remembers what was read."""

    def __init__(self) -> None:
        self.names: list[SecretName] = []

    async def read(self, namespace: str, name: str) -> SecretData:
        self.names.append(SecretName(namespace, name))
        raise LookupError(f"The Secret {namespace}/{name} does not exist.")

    def forget(self, namespace: str, name: str) -> None:
        """Nothing is kept."""


async def refused(asked: Asked, namespace: str, reference: str | None) -> str:
    """What an object of the namespace hears when it connects; there is no Secret, so nothing can be used."""
    connections = Connections(Sources(asked), Mock(), DEFAULT, lambda each: each == SERVED, Hosts())
    ref = None if reference is None else ConnectionRef(name=reference)
    metadata = Metadata(name="nightly", namespace=namespace, uid="u", resource_version="1")
    with pytest.raises(Unusable) as error:
        await connections.connect(DbtRun(metadata=metadata, spec=Spec(job=Job(id=1), connection_ref=ref)))
    return str(error.value)


async def test_the_default_connection_serves_no_other_namespace() -> None:
    asked = Asked()
    said = await refused(asked, "team-b", None)
    assert said == "The default connection does not serve the namespace team-b: name a Secret in spec.connectionRef."
    assert asked.names == []
    await refused(asked, SERVED, None)
    assert asked.names == [DEFAULT]


async def test_a_reference_leads_to_a_secret_of_its_own_namespace() -> None:
    asked = Asked()
    await refused(asked, "team-b", DEFAULT.name)
    assert asked.names == [SecretName("team-b", DEFAULT.name)]


class Secrets(Asked):
    """A cluster in which there are Secrets now and then."""

    def __init__(self) -> None:
        super().__init__()
        self.there: dict[str, bytes] | None = None

    async def read(self, namespace: str, name: str) -> SecretData:
        if self.there is None:
            return await super().read(namespace, name)
        return Mock(type=CONNECTION_SECRET_TYPE, data=self.there, resource_version="1")


async def test_a_connection_that_cannot_be_used_is_logged_once_for_each_change(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    secrets = Secrets()
    connections = Connections(Sources(secrets), Mock(), None, lambda _each: True, Hosts())

    async def connect(name: str) -> None:
        metadata = Metadata(name=name, namespace="team", uid=name, resource_version="1")
        run = DbtRun(metadata=metadata, spec=Spec(job=Job(id=1), connection_ref=ConnectionRef(name="dbt")))
        with suppress(Unusable):
            await connections.connect(run)

    for name in ("a", "b", "a"):
        await connect(name)
    secrets.there = {"token": b"t"}
    await connect("a")
    secrets.there = {"token": b"t", "account-id": b"1"}
    await connect("a")
    await connect("b")
    told = [
        (record.levelname, vars(record)["connection"], record.message.partition(";")[0]) for record in caplog.records
    ]
    assert told == [
        ("WARNING", "Secret team/dbt", "A connection cannot be used: The Secret team/dbt does not exist."),
        ("WARNING", "Secret team/dbt", "A connection cannot be used: Secret team/dbt: key `account-id` is missing"),
        ("INFO", "Secret team/dbt", "The connection can be used again."),
    ]


@pytest.mark.parametrize(
    ("account", "host", "usable"),
    [
        (None, None, True),
        (1, "cloud.getdbt.com", True),
        (2, "cloud.getdbt.com", False),
        (1, "emea.dbt.com", False),
    ],
)
async def test_a_mirror_shows_no_run_of_another_account_than_before(
    account: int | None, host: str | None, usable: bool
) -> None:
    """Its cursor and the ids that it remembers are of the first one."""
    secrets, accounts = Secrets(), Mock()
    secrets.there = {"token": b"t", "account-id": b"1"}
    connections = Connections(Sources(secrets), accounts, DEFAULT, lambda _each: True, Hosts())
    metadata = Metadata(name="all", namespace="team", uid="uid-of-all", resource_version="1")
    status = MirrorStatus(account_id=account, host=host)
    mirror = DbtRunMirror(metadata=metadata, spec=MirrorSpec(select=Select(all_jobs=True)), status=status)
    if usable:
        assert await connections.connect_mirror(mirror) is accounts.use.return_value
        return
    with pytest.raises(Misdirected, match="create a new DbtRunMirror"):
        await connections.connect_mirror(mirror)
    accounts.use.assert_not_called()
    accounts.release.assert_called_once_with("uid-of-all")


@pytest.mark.parametrize(
    ("namespace", "reference", "limited"),
    [
        (SERVED, None, True),
        ("team-b", "own", False),
        ("team-b", DEFAULT.name, False),
        (DEFAULT.namespace, DEFAULT.name, True),
    ],
)
def test_projects_are_limited_for_the_default_connection_by_whatever_name(
    namespace: str, reference: str | None, limited: bool
) -> None:
    connections = Connections(
        Sources(Asked()), Mock(), DEFAULT, lambda _each: True, Hosts(), lambda _each: frozenset({101})
    )
    ref = None if reference is None else ConnectionRef(name=reference)
    metadata = Metadata(name="nightly", namespace=namespace, uid="u", resource_version="1")
    run = DbtRun(metadata=metadata, spec=Spec(job=Job(id=1), connection_ref=ref))
    assert connections.projects(run) == (frozenset({101}) if limited else None)
