"""The Administrative API: every endpoint in a few lines, and what all of them share.

Each request is counted, meets the faults, is authorised, and lets time pass before it is answered. Paths are accepted
with and without their trailing slash, since real clients send both.
"""

from __future__ import annotations

import asyncio
import operator
from dataclasses import dataclass
from email.utils import formatdate
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from watcher.simulator import filters, webhooks, wire
from watcher.simulator.faults import VIEW, Dropped, Hung, Latency, View, json_response, suffer, view_of
from watcher.simulator.model import Refused, Run, TriggerRequest
from watcher.simulator.scenario import TokenSpec, WebhookSpec, find_project
from watcher.simulator.steps import artifact, artifact_names, run_of_step, steps
from watcher.simulator.wire import ApiError, enveloped, invalid, not_found

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from starlette.requests import Request

    from watcher.simulator.filters import Kind
    from watcher.simulator.model import Job
    from watcher.simulator.scenario import EnvironmentSpec, ProjectSpec
    from watcher.simulator.state import Simulator
    from watcher.simulator.webhooks import Subscription


@dataclass(slots=True)
class Call:
    """One authorised request."""

    simulator: Simulator
    request: Request
    body: bytes
    token: TokenSpec
    view: View

    @property
    def host(self) -> str:
        """The host that the client has asked."""
        return self.request.headers.get("host", "localhost")

    @property
    def parameters(self) -> list[tuple[str, str]]:
        """The parameters of the query, in their order."""
        return self.request.query_params.multi_items()

    @property
    def related(self) -> set[str]:
        """What `include_related` asks for."""
        return filters.related(self.parameters)

    def number(self, name: str) -> int:
        """A number in the path.

        Raises:
            ApiError: it is not a number.
        """
        text = str(self.request.path_params[name])
        if not text.isdecimal():
            raise not_found()
        return int(text)

    def sees_project(self, project_id: int | None) -> bool:
        """Whether the token may see the project."""
        if self.token.projects is None:
            return True
        scenario = self.simulator.scenario
        return project_id in {find_project(scenario, wanted, "token").id for wanted in self.token.projects}

    def run(self) -> Run:
        """The run of the path.

        Raises:
            ApiError: there is no such run.
        """
        run = self.simulator.account.runs.get(self.number("run_id"))
        if run is None or run.id in self.view.hidden or not self.sees_project(run.project_id):
            raise not_found()
        return run

    def job(self) -> Job:
        """The job of the path.

        Raises:
            ApiError: there is no such job.
        """
        job = self.simulator.account.jobs.get(self.number("job_id"))
        if job is None or not self.sees_project(job.project.id):
            raise not_found()
        return job

    def project(self) -> ProjectSpec:
        """The project of the path.

        Raises:
            ApiError: there is no such project, or the token may not see it.
        """
        wanted = self.number("project_id")
        for project in self.simulator.scenario.projects:
            if project.id == wanted and self.sees_project(project.id):
                return project
        raise not_found()

    def environments(self) -> list[tuple[ProjectSpec, EnvironmentSpec]]:
        """The environments that the token may see."""
        projects = [project for project in self.simulator.scenario.projects if self.sees_project(project.id)]
        return [(project, environment) for project in projects for environment in project.environments]

    def subscription(self) -> Subscription:
        """The webhook subscription of the path.

        Raises:
            ApiError: there is no such subscription.
        """
        found = self.simulator.webhooks.subscriptions.get(self.request.path_params["webhook_id"])
        if found is None:
            raise not_found()
        return found

    def write(self) -> None:
        """Refuses a token that may only read.

        Raises:
            ApiError: the token may only read.
        """
        if self.token.read_only:
            raise ApiError(403, "You do not have permission to perform this action.")

    def run_reply(self, run: Run, related: Iterable[str] = ()) -> Any:
        """A run, with what `include_related` asks for."""
        body = wire.run_body(self.simulator.account, run, {*related}, self.host)
        if self.view.status is not None:
            body["status"] = self.view.status
        return body

    def step(self) -> int | None:
        """The index of a step, as the query gives it.

        Raises:
            ApiError: it is not a number.
        """
        text = self.request.query_params.get("step")
        if text and not text.isdecimal():
            raise invalid(step="A valid integer is required.")
        return int(text) if text else None


# Runs


def start(call: Call) -> Any:
    """POST jobs/{id}/run/"""
    job = call.job()
    call.write()
    run = call.simulator.start(job, trigger_request(call.body))
    # Recorded: the reply to a start has both, although nobody asks for them.
    return enveloped(call.run_reply(run, {"trigger", "job"}))


def trigger_request(body: bytes) -> TriggerRequest:
    """The body of a start.

    :raises ApiError: 400 that names the field.
    """
    try:
        document = msgspec.json.decode(body or b"{}")
        if not isinstance(document, dict):
            raise invalid(body="Expected a JSON object.")
        if document.get("cause") in (None, ""):
            raise invalid(cause="required key not provided")
        return msgspec.convert(document, TriggerRequest)
    except msgspec.ValidationError as error:
        text, _, place = str(error).partition(" - at `$.")
        raise invalid(**{place.rstrip("`").partition("[")[0] or "body": text}) from None
    except msgspec.DecodeError as error:
        raise invalid(body=f"JSON parse error: {error}") from None


def rerun(call: Call) -> Any:
    """POST jobs/{id}/rerun/"""
    job = call.job()
    call.write()
    return enveloped(call.run_reply(call.simulator.rerun(job), {"trigger", "job"}))


def retry(call: Call) -> Any:
    """POST runs/{id}/retry/

    Raises:
        ApiError: the run cannot be retried.
    """
    run = call.run()
    call.write()
    try:
        return enveloped(call.run_reply(call.simulator.retry(run), {"trigger", "job"}))
    except Refused as refusal:
        raise invalid(retry_not_supported_reason=refusal.reason) from None


def retry_details(call: Call) -> Any:
    """GET runs/{id}/retry/"""
    run = call.run()
    view = steps(run, call.simulator.clock)
    failed = [step.name for step in view if step.status == 20]
    skipped = [step.name for step in view if failed and step.started_at is None]
    return enveloped({"failed_step": failed[0] if failed else None, "skipped_steps": skipped})


def cancel(call: Call) -> Any:
    """POST runs/{id}/cancel/"""
    run = call.run()
    call.write()
    return enveloped(call.run_reply(call.simulator.cancel(run)))


def get_run(call: Call) -> Any:
    """GET runs/{id}/"""
    return enveloped(call.run_reply(call.run(), call.related))


def list_runs(call: Call) -> Any:
    """GET runs/"""
    account, real = call.simulator.account, call.simulator.clock.real()
    query = filters.parse(call.parameters, filters.RUN_FILTERS, filters.RUN_ORDERS, call.view.ignored)
    page, total = filters.select_runs(
        account, query, lambda run: call.view.listed(run, real) and call.sees_project(run.project_id)
    )
    related = call.related
    return enveloped([call.run_reply(run, related) for run in page], _extra(call, query, len(page), total))


def _extra(call: Call, query: filters.Query, count: int, total: int) -> dict[str, Any]:
    return {
        "filters": query.echo(call.simulator.account.spec.id),
        "order_by": query.order_by,
        "pagination": {"count": count, "total_count": total},
    }


# Artifacts and steps


def list_artifacts(call: Call) -> Any:
    """GET runs/{id}/artifacts/"""
    run = call.run()
    # null and not an empty list, as the API answers for a run without files.
    return enveloped(artifact_names(run) if call.simulator.account.has_artifacts(run) else None)


def get_artifact(call: Call) -> Any:
    """GET runs/{id}/artifacts/{path}"""
    return _artifact(call, call.run())


def get_job_artifact(call: Call) -> Any:
    """GET jobs/{id}/artifacts/{path}

    Raises:
        ApiError: there is no such file.
    """
    account = call.simulator.account
    for run in reversed(account.by_job.get(call.job().id, [])):
        if account.has_artifacts(run):
            return _artifact(call, run)
    raise not_found()


def _artifact(call: Call, run: Run) -> Any:
    if not call.simulator.account.has_artifacts(run):
        raise not_found()
    content = artifact(run, call.request.path_params["path"], call.step(), call.simulator.clock)
    if content is None:
        raise not_found()
    return content


def get_step(call: Call) -> Any:
    """GET steps/{id}/

    Raises:
        ApiError: there is no such step.
    """
    run_id, index = run_of_step(call.number("step_id"))
    call.request.path_params["run_id"] = run_id
    for step in steps(call.run(), call.simulator.clock):
        if step.index == index:
            return enveloped(wire.step_body(call.simulator.account, step, debug="debug_logs" in call.related))
    raise not_found()


# Jobs, projects, environments, the account

NAMES: dict[str, Kind] = {"name__icontains": "text", "project_id": "int", "project_id__in": "ints", "pk": "int"}
JOB_FILTERS: dict[str, Kind] = NAMES | {"environment_id": "int"}
PROJECT_FILTERS: dict[str, Kind] = {"name__icontains": "text", "pk": "int", "pk__in": "ints", "pk__gt": "int"}
OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "": operator.eq,
    "in": lambda field, values: field in values,
    "gt": operator.gt,
    "icontains": lambda field, text: text.lower() in field.lower(),
}


def _listed(call: Call, bodies: Sequence[dict[str, Any]], known: dict[str, Kind]) -> Any:
    """A list of few and small things, filtered by their own fields."""
    query = filters.parse(call.parameters, known, ("id", "name", "created_at", "updated_at"), call.view.ignored)
    # An operator follows the name of its field: `pk__in`. The field `pk` is the `id`.
    wanted = [(*name.replace("pk", "id").partition("__")[::2], value) for name, value in query.filters.items()]
    found = [
        body
        for body in bodies
        if filters.STATES[query.state] and all(OPERATORS[test](body[field], value) for field, test, value in wanted)
    ]
    name, down = query.order_by.removeprefix("-"), query.order_by.startswith("-")
    found.sort(key=lambda body: (body[name], body["id"]), reverse=down)
    page = found[query.offset : query.offset + query.limit]
    return enveloped(page, _extra(call, query, len(page), len(found)))


def list_jobs(call: Call) -> Any:
    """GET jobs/"""
    account, related = call.simulator.account, call.related
    jobs = [job for job in account.jobs.values() if call.sees_project(job.project.id)]
    return _listed(call, [wire.job_body(account, job, related, call.host) for job in jobs], JOB_FILTERS)


def get_job(call: Call) -> Any:
    """GET jobs/{id}/"""
    return enveloped(wire.job_body(call.simulator.account, call.job(), call.related, call.host))


def list_projects(call: Call) -> Any:
    """GET projects/"""
    account = call.simulator.account
    visible = [project for project in call.simulator.scenario.projects if call.sees_project(project.id)]
    return _listed(call, [wire.project_body(account, project) for project in visible], PROJECT_FILTERS)


def get_project(call: Call) -> Any:
    """GET projects/{id}/"""
    return enveloped(wire.project_body(call.simulator.account, call.project()))


def list_environments(call: Call) -> Any:
    """GET environments/"""
    account = call.simulator.account
    return _listed(call, [wire.environment_v2(account, p, e) for p, e in call.environments()], NAMES)


def get_environment(call: Call) -> Any:
    """GET environments/{id}/

    Raises:
        ApiError: there is no such environment.
    """
    wanted = call.number("environment_id")
    for project, environment in call.environments():
        if environment.id == wanted:
            return enveloped(wire.environment_v2(call.simulator.account, project, environment))
    raise not_found()


def list_project_environments(call: Call) -> Any:
    """GET projects/{id}/environments/"""
    account, project = call.simulator.account, call.project()
    return _listed(call, [wire.environment_v3(account, project, e) for e in project.environments], NAMES)


def get_project_environment(call: Call) -> Any:
    """GET projects/{id}/environments/{id}/

    Raises:
        ApiError: there is no such environment.
    """
    wanted, project = call.number("environment_id"), call.project()
    for environment in project.environments:
        if environment.id == wanted:
            return enveloped(wire.environment_v3(call.simulator.account, project, environment))
    raise not_found()


# Webhooks


def list_webhooks(call: Call) -> Any:
    """GET webhooks/subscriptions"""
    subscriptions = call.simulator.webhooks.subscriptions.values()
    return enveloped([webhooks.body(call.simulator.account.spec.id, each) for each in subscriptions])


def create_webhook(call: Call) -> Any:
    """POST webhooks/subscriptions"""
    call.write()
    made = call.simulator.webhooks.add(_webhook_spec(call.body))
    call.simulator.webhooks.start()
    return enveloped(webhooks.body(call.simulator.account.spec.id, made, new=True))


def get_webhook(call: Call) -> Any:
    """GET webhooks/subscription/{id}"""
    return enveloped(webhooks.body(call.simulator.account.spec.id, call.subscription()))


def put_webhook(call: Call) -> Any:
    """PUT webhooks/subscription/{id}"""
    subscription = call.subscription()
    call.write()
    call.simulator.webhooks.change(subscription, _webhook_spec(call.body))
    return enveloped(webhooks.body(call.simulator.account.spec.id, subscription))


def delete_webhook(call: Call) -> Any:
    """DELETE webhooks/subscription/{id}"""
    subscription = call.subscription()
    call.write()
    del call.simulator.webhooks.subscriptions[subscription.id]
    return enveloped({"id": subscription.id})


def _webhook_spec(body: bytes) -> WebhookSpec:
    """Ids of jobs may be strings, as the API itself writes them.

    Raises:
        ApiError: a field is not as described.
    """
    try:
        document = msgspec.json.decode(body or b"{}")
        known = {name: document[name] for name in WebhookSpec.__struct_fields__ if name in document}
        return msgspec.convert(known | {"hmac_secret": None}, WebhookSpec, strict=False)
    except (msgspec.MsgspecError, TypeError) as error:
        raise invalid(body=str(error)) from None


def get_account(call: Call) -> Any:
    """GET accounts/{id}/"""
    return enveloped(wire.account_body(call.simulator.account))


def list_accounts(call: Call) -> Any:
    """GET accounts/"""
    return enveloped([wire.account_body(call.simulator.account)])


def whoami(call: Call) -> Any:
    """GET whoami/"""
    del call
    return enveloped(
        {"user": {"id": 1, "email": "simulator@example.com", "first_name": "dbt", "last_name": "Simulator"}}
    )


ACCOUNT = "/accounts/{account_id}"
RUN = f"{ACCOUNT}/runs/{{run_id}}"
JOB = f"{ACCOUNT}/jobs/{{job_id}}"
PROJECT = f"{ACCOUNT}/projects/{{project_id}}"
WEBHOOKS = f"/api/v3{ACCOUNT}/webhooks"
# (method, path without its trailing slash, kind, endpoint): the kinds are what faults and counts are named by
ENDPOINTS: list[tuple[str, str, str, Callable[[Call], Any]]] = [
    ("GET", f"/api/v2{ACCOUNT}/runs", "list-runs", list_runs),
    ("GET", f"/api/v2{RUN}", "get-run", get_run),
    ("POST", f"/api/v2{RUN}/cancel", "cancel", cancel),
    ("POST", f"/api/v2{RUN}/retry", "retry", retry),
    ("GET", f"/api/v2{RUN}/retry", "retry-details", retry_details),
    ("GET", f"/api/v2{RUN}/artifacts", "list-artifacts", list_artifacts),
    ("GET", f"/api/v2{RUN}/artifacts/{{path:path}}", "get-artifact", get_artifact),
    ("GET", f"/api/v2{ACCOUNT}/jobs", "list-jobs", list_jobs),
    ("GET", f"/api/v2{JOB}", "get-job", get_job),
    ("POST", f"/api/v2{JOB}/run", "start", start),
    ("POST", f"/api/v2{JOB}/rerun", "rerun", rerun),
    ("GET", f"/api/v2{JOB}/artifacts/{{path:path}}", "get-job-artifact", get_job_artifact),
    ("GET", f"/api/v2{ACCOUNT}/steps/{{step_id}}", "get-step", get_step),
    ("GET", f"/api/v2{ACCOUNT}/environments", "list-environments", list_environments),
    ("GET", f"/api/v2{ACCOUNT}/environments/{{environment_id}}", "get-environment", get_environment),
    *(
        endpoint
        for version in ("v2", "v3")
        for endpoint in (
            ("GET", f"/api/{version}{ACCOUNT}", "get-account", get_account),
            ("GET", f"/api/{version}/accounts", "list-accounts", list_accounts),
            ("GET", f"/api/{version}{ACCOUNT}/projects", "list-projects", list_projects),
            ("GET", f"/api/{version}{PROJECT}", "get-project", get_project),
        )
    ),
    ("GET", f"/api/v3{PROJECT}/environments", "list-environments", list_project_environments),
    ("GET", f"/api/v3{PROJECT}/environments/{{environment_id}}", "get-environment", get_project_environment),
    ("GET", "/api/v2/whoami", "whoami", whoami),
    ("GET", f"{WEBHOOKS}/subscriptions", "list-webhooks", list_webhooks),
    ("POST", f"{WEBHOOKS}/subscriptions", "create-webhook", create_webhook),
    ("GET", f"{WEBHOOKS}/subscription/{{webhook_id}}", "get-webhook", get_webhook),
    ("PUT", f"{WEBHOOKS}/subscription/{{webhook_id}}", "put-webhook", put_webhook),
    ("DELETE", f"{WEBHOOKS}/subscription/{{webhook_id}}", "delete-webhook", delete_webhook),
]
KINDS = tuple(dict.fromkeys(kind for _, _, kind, _ in ENDPOINTS))


class Api:
    """The endpoints as routes of a Starlette application."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._late: set[asyncio.Task[None]] = set()
        self.routes = [
            Route(path, partial(self._serve, kind, endpoint), methods=[method])
            for method, path, kind, endpoint in ENDPOINTS
        ]

    async def _serve(self, kind: str, endpoint: Callable[[Call], Any], request: Request) -> Response:
        simulator = self._simulator
        simulator.requests.kinds[kind] += 1
        # Before the token is looked at: all tokens of an account share the penalty.
        response = simulator.faults.silence() or await self._answer(kind, endpoint, request)
        lost = isinstance(response, (Dropped, Hung))
        simulator.requests.count(kind, "dropped" if lost else str(response.status_code))
        # By the simulated clock: clients take the offset of dbt Cloud's clock from this header.
        response.headers["Date"] = formatdate(simulator.clock.stamp(simulator.clock.now()), usegmt=True)
        return response

    async def _answer(self, kind: str, endpoint: Callable[[Call], Any], request: Request) -> Response:
        simulator = self._simulator
        # Before any harm: a lost reply must look like one, and not like a request that was never read.
        body = await request.body()
        effects = simulator.faults.meet(kind, request.method, request.scope["original_path"])
        for effect in effects:
            if isinstance(effect, Latency):
                await asyncio.sleep(effect.seconds)
        view = view_of(effects)

        async def answer() -> Response:
            simulator.account.advance()
            try:
                return json_response(endpoint(Call(simulator, request, body, self._authorise(request), view)))
            except ApiError as error:
                return json_response(error.body, error.code)

        harm = next((effect for effect in effects if not isinstance(effect, (Latency, *VIEW))), None)
        if harm is None:
            return await answer()
        return await suffer(harm, simulator.faults, answer, partial(self._later, answer))

    def _later(self, answer: Callable[[], Awaitable[Response]], seconds: float) -> None:
        async def commit() -> None:
            await asyncio.sleep(seconds)
            await answer()

        task = asyncio.get_running_loop().create_task(commit())
        # asyncio refers to tasks only weakly: without this, one could be collected before it commits.
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    def _authorise(self, request: Request) -> TokenSpec:
        """Who asks: an unknown token is 401, a wrong account 403, and only then anything else."""
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        token = self._simulator.tokens.get(secret.strip()) if scheme in ("Token", "Bearer") else None
        if token is None:
            raise wire.bad_token()
        account = self._simulator.account.spec
        if request.path_params.get("account_id", str(account.id)) != str(account.id):
            raise ApiError(403, wire.WRONG_ACCOUNT)
        if account.unpaid:
            raise ApiError(401, "The API is not accessible to unpaid accounts.")
        return token
