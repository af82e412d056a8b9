"""Reading a file of a run where the watcher keeps it."""

from __future__ import annotations

from base64 import b64encode
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_trigger.artifacts import DbtRunArtifactOperator
from airflow_trigger.failures import DbtRunException, DbtRunLostContact, DbtRunRefused, InvalidArgument
from dbtrun.api import PLURAL
from dbtrun.kube import retry
from dbtrun.kube.errors import Forbidden, Unreachable
from dbtrun.kube.lists import FIRST_PAGE
from tests.unit.world.apiserver import ApiServer, Direct

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from airflow.providers.common.compat.sdk import Context

    from dbtrun.kube.config import ClusterConfig
    from dbtrun.kube.errors import KubeError

RUN = 70_403_000_000_001
RESULTS = {"path": "run_results.json", "configMap": "nightly-artifacts", "key": "run_results.json", "bytes": 9}
COMPILED: dict[str, Any] = {
    "path": "compiled/shop/a.sql",
    "configMap": "nightly-artifacts",
    "key": "compiled..shop..a.sql",
    "bytes": 3,
}
HUGE = {"path": "manifest.json", "problem": "It is too large."}


class Server(ApiServer):
    """With a run that keeps files."""

    def __init__(self) -> None:
        super().__init__()
        self.has("nightly", "Succeeded", RUN, RESULTS, COMPILED, HUGE)
        self.keeps({"run_results.json": '{"a":  1}'}, {COMPILED["key"]: b64encode(b"\xff\x00\xfe").decode()})

    def has(self, name: str, phase: str = "Succeeded", run_id: int = RUN, *files: Mapping[str, Any]) -> None:
        """A DbtRun."""
        spec = {"job": {"id": 1}, "artifacts": [file["path"] for file in files] or ["lost.json"]}
        status = {"phase": phase, "runId": run_id, "artifacts": list(files)}
        self.store(PLURAL, name, {"spec": spec, "status": status}, namespace="data")

    def keeps(self, data: Mapping[str, str], binary_data: Mapping[str, str] | None = None) -> None:
        """The ConfigMap of `nightly`."""
        files = {"data": dict(data), "binaryData": dict(binary_data or {})}
        self.store("configmaps", "nightly-artifacts", files, namespace="data")

    def fails(self, *errors: KubeError) -> None:
        """The next requests."""
        for error in errors:
            self.plan("GET", "", error)

    @asynccontextmanager
    async def connect(self, config: ClusterConfig) -> AsyncIterator[Direct]:
        yield Direct(self)


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker's own folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(retry, "FIRST_PAUSE", 0.001)


def read(server: Server, **arguments: Any) -> str:
    class Operator(DbtRunArtifactOperator):
        connect = staticmethod(server.connect)

    given: dict[str, Any] = {"task_id": "read", "path": "run_results.json", "namespace": "data"}
    if "run_id" not in arguments:
        given["name"] = "nightly"
    return Operator(**given | arguments).execute(cast("Context", {}))


def test_the_file_is_written_byte_for_byte_under_the_name_that_the_provider_gives_it(server: Server) -> None:
    assert read(server) == f"{RUN}_run_results.json"
    assert Path(f"{RUN}_run_results.json").read_bytes() == b'{"a":  1}'


def test_a_file_that_is_no_text_is_written_too(server: Server) -> None:
    assert Path(read(server, path="compiled/shop/a.sql")).read_bytes() == b"\xff\x00\xfe"
    assert Path(f"{RUN}_compiled-shop-a.sql").exists()


def test_the_name_comes_from_the_rendered_path(server: Server) -> None:
    class Operator(DbtRunArtifactOperator):
        connect = staticmethod(server.connect)

    operator = Operator(task_id="read", name="nightly", path="{{ params.p }}", namespace="data")
    operator.render_template_fields(cast("Context", {"params": {"p": "compiled/shop/a.sql"}}))
    assert operator.execute(cast("Context", {})) == f"{RUN}_compiled-shop-a.sql"


def test_a_name_of_ones_own_may_have_folders(server: Server) -> None:
    assert read(server, output_file_name="out/today/results.json") == "out/today/results.json"
    assert Path("out/today/results.json").read_bytes() == b'{"a":  1}'


def test_the_run_is_found_by_its_id_among_many(server: Server) -> None:
    server.has("adopted", "Running")
    server.has("late", "Error")
    for number in range(FIRST_PAGE):
        server.has(f"other-{number}", run_id=number + 1)
    assert read(server, run_id=str(RUN)) == f"{RUN}_run_results.json"


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("manifest.json", "manifest.json of DbtRun nightly was not kept. It is too large."),
        ("catalog.json", "DbtRun nightly does not keep catalog.json: name it in spec.artifacts before the run ends."),
    ],
)
def test_a_file_that_is_not_kept_fails_for_good_and_says_why(server: Server, path: str, why: str) -> None:
    with pytest.raises(DbtRunRefused) as caught:
        read(server, path=path)
    assert str(caught.value) == why
    assert isinstance(caught.value, AirflowFailException)


def test_an_end_without_files_says_which_end(server: Server) -> None:
    server.has("nightly", "Error")
    with pytest.raises(DbtRunRefused, match=r"lost\.json of DbtRun nightly was not kept: it ended as Error\."):
        read(server, path="lost.json")


def test_a_run_that_is_not_over_may_be_tried_again(server: Server) -> None:
    server.has("nightly", "Running")
    with pytest.raises(DbtRunException, match="is Running") as caught:
        read(server)
    assert not isinstance(caught.value, AirflowFailException)


def test_a_run_that_no_object_is_about_is_an_error(server: Server) -> None:
    server.has("nightly", run_id=5)
    with pytest.raises(DbtRunRefused, match=f"no DbtRun of dbt Cloud run {RUN}"):
        read(server, run_id=RUN)


def test_a_server_that_does_not_answer_is_asked_again(server: Server) -> None:
    server.fails(Unreachable("no answer"), Unreachable("HTTP 503"))
    assert Path(read(server)).exists()


@pytest.mark.parametrize("error", [Forbidden("Kubernetes refuses it."), Unreachable("away", retry_after=100.0)])
def test_what_cannot_be_read_is_a_lost_contact(server: Server, error: KubeError) -> None:
    server.fails(error)
    with pytest.raises(DbtRunLostContact, match=str(error)):
        read(server)


@pytest.mark.parametrize("left", [{}, {"other": ""}])
def test_a_config_map_that_somebody_emptied_is_a_lost_contact(server: Server, left: dict[str, str]) -> None:
    server.keeps(left)
    with pytest.raises(DbtRunLostContact, match="has no key run_results"):
        read(server)


def test_a_dbtrun_that_is_gone_is_a_lost_contact(server: Server) -> None:
    server.objects.clear()
    with pytest.raises(DbtRunLostContact, match="it is deleted together with its DbtRun"):
        read(server)


@pytest.mark.parametrize(
    "arguments", [{"name": None}, {"run_id": RUN, "name": "nightly"}, {"run_id": "latest"}, {"config_file": "k"}]
)
def test_arguments_that_cannot_be_used_are_refused(server: Server, arguments: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        read(server, **arguments | ({"in_cluster": True} if "config_file" in arguments else {}))


@pytest.mark.parametrize(
    ("argument", "value"),
    [("dbt_cloud_conn_id", "dbt_cloud"), ("account_id", 1), ("step", 2), ("hook_params", {"retry_limit": 3})],
)
def test_an_argument_of_the_provider_without_a_place_is_taken_with_a_warning(
    server: Server, argument: str, value: object
) -> None:
    with pytest.warns(FutureWarning, match=f"{argument} has no effect: "):
        assert read(server, **{argument: value}) == f"{RUN}_run_results.json"
