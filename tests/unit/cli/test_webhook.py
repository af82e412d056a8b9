"""`dbtrun webhook`: where dbt Cloud sends webhooks, and what is left when something fails on the way."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

import click
import pytest

from dbtrun.cli.dbtcloud import Kind, Reply
from dbtrun.cli.webhook import EVENTS, _created, _kept, url_of
from dbtrun.kube.errors import Conflict, Forbidden

URL = "https://hooks.example.com/hooks/data/dbt-cloud"
KEYS = {"token": "dbtc_a", "account-id": "7", "webhook-token": "dbtc_b", "webhook-secret": "old"}


class Api:
    """Has one Secret."""

    def __init__(self, refuses: int | None = None, error: Exception | None = None, **keys: str) -> None:
        self.data = KEYS | keys
        self.patches: list[tuple[bool, dict[str, Any]]] = []
        self._refuses, self._error = refuses, error

    async def request(self, method: str, path: str, *, query: Any = None, body: Any = None) -> bytes:
        assert path == "/api/v1/namespaces/data/secrets/dbt-cloud"
        if method == "PATCH":
            if len(self.patches) == self._refuses and self._error is not None:
                raise self._error
            self.patches.append((query == {"dryRun": "All"}, body))
        data = {key: base64.b64encode(value.encode()).decode() for key, value in self.data.items()}
        return json.dumps({"metadata": {"resourceVersion": "5"}, "data": data}).encode()


class Cloud:
    """Has webhooks."""

    def __init__(self, *urls: str, shows: bool = True, refuses: str = "", empty: str = "") -> None:
        self.there = [{"id": f"wsu_{number}", "client_url": url} for number, url in enumerate(urls)]
        self.made: list[Mapping[str, Any]] = []
        self.deleted: list[str] = []
        self._shows, self._refuses, self._empty = shows, refuses, empty

    async def get(self, path: str, **_: Any) -> Reply:
        return await self.ask("GET", path)

    async def ask(self, method: str, path: str, *, body: Any = None, version: str = "v3") -> Reply:
        if method == self._refuses:
            return Reply(kind=Kind.FORBIDDEN, words="no permission", status=403)
        if method == self._empty:
            return Reply(kind=Kind.ANSWERED, data="odd")
        if method == "POST":
            self.made.append(body)
            return Reply(kind=Kind.ANSWERED, data={"id": "wsu_new", "hmac_secret": "new" if self._shows else None})
        if method == "DELETE":
            self.deleted.append(path.rpartition("/")[2])
        return Reply(kind=Kind.ANSWERED, data=self.there)


async def create(api: Api, cloud: Cloud, *, replaces: bool = False) -> None:
    kept = await _kept(api, "data", "dbt-cloud")  # type: ignore[arg-type]
    await _created(api, cloud, kept, URL, [5], replaces=replaces)  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["https://hooks.example.com", "https://hooks.example.com/", URL])
def test_the_address_names_the_connection(address: str) -> None:
    assert url_of(address, "data", "dbt-cloud") == URL


NO_ADDRESS = ("hooks.example.com", "http://hooks.example.com", "https://", "https://a/?b", "https://a b")


@pytest.mark.parametrize("address", NO_ADDRESS)
def test_an_address_that_does_not_serve_is_refused(address: str) -> None:
    with pytest.raises(click.UsageError):
        url_of(address, "data", "dbt-cloud")


async def test_the_secret_is_kept_and_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    api, cloud = Api(), Cloud("https://other.example.com")
    await create(api, cloud)
    (made,) = cloud.made
    assert (made["client_url"], list(made["event_types"]), made["job_ids"]) == (URL, list(EVENTS), [5])
    assert [dry for dry, _ in api.patches] == [True, False]
    body = api.patches[1][1]
    assert body["metadata"] == {"resourceVersion": "5"}, "what somebody else writes meanwhile stays"
    assert body["stringData"] == {"webhook-url": URL, "webhook-secret": "new", "webhook-secret-previous": "old"}
    assert cloud.deleted == []
    out, err = capsys.readouterr()
    assert "wsu_new" in out
    assert "new" not in (out + err).replace("wsu_new", "")


async def test_one_that_is_there_is_replaced_on_request_only() -> None:
    api, cloud = Api(), Cloud(URL)
    with pytest.raises(click.ClickException, match="--replace"):
        await create(api, cloud)
    assert (api.patches, cloud.made) == ([], [])
    await create(api, cloud, replaces=True)
    assert (len(cloud.made), cloud.deleted) == (1, ["wsu_0"])


async def test_without_the_right_to_keep_the_secret_nothing_is_created() -> None:
    cloud = Cloud()
    with pytest.raises(Forbidden):
        await create(Api(0, Forbidden("secrets")), cloud)
    assert cloud.made == []


async def test_a_secret_that_cannot_be_kept_leaves_no_webhook() -> None:
    cloud = Cloud(URL)
    with pytest.raises(Conflict):
        await create(Api(1, Conflict("changed")), cloud, replaces=True)
    assert cloud.deleted == ["wsu_new"]
    cloud = Cloud(shows=False)
    with pytest.raises(click.ClickException, match="did not return its secret"):
        await create(Api(), cloud)
    assert cloud.deleted == ["wsu_new"]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_refusal_of_dbt_cloud_is_told(method: str) -> None:
    api = Api()
    with pytest.raises(click.ClickException, match=r"webhooks cannot be managed: .*no permission"):
        await create(api, Cloud(refuses=method))
    assert all(dry for dry, _ in api.patches)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_success_without_what_was_asked_for_is_told(method: str) -> None:
    api = Api()
    with pytest.raises(click.ClickException, match=r"cannot be managed: .*does not contain what was asked for"):
        await create(api, Cloud(empty=method))
    assert all(dry for dry, _ in api.patches)


async def test_the_token_for_webhooks_is_used() -> None:
    kept = await _kept(Api(), "data", "dbt-cloud")  # type: ignore[arg-type]
    assert kept.connection.token.reveal() == "dbtc_b"
    with pytest.raises(click.ClickException, match="account-id"):
        await _kept(Api(**{"account-id": ""}), "data", "dbt-cloud")  # type: ignore[arg-type]


async def test_what_is_not_a_webhook_is_passed_over() -> None:
    cloud = Cloud()
    cloud.there = [5, None]  # type: ignore[list-item]
    await create(Api(), cloud)
    assert len(cloud.made) == 1
