"""`/_simulator`: what a test or a person does to the simulator while it runs. JSON in, JSON out, no token.

It answers on the loopback interface only, unless that was opened on purpose.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from starlette.routing import Route

from watcher.simulator.faults import Fault, Rule, json_response
from watcher.simulator.model import Run, Status, TriggerRequest
from watcher.simulator.routes import KINDS
from watcher.simulator.scenario import Id, JobSpec, ScenarioError, TokenSpec, convert
from watcher.simulator.webhooks import Conduct
from watcher.simulator.wire import run_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from watcher.simulator.state import Simulator

T = TypeVar("T")


class Somebody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A run that somebody else starts."""

    job_id: Id
    cause: str = "Kicked off from the UI"


class Finish(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """How a live run ends: `POST /runs/{id}/finish`."""

    status: int = 10
    message: str | None = None


class Pace(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """`offset` in seconds."""

    speed: Annotated[float, msgspec.Meta(gt=0, le=1e6)] | None = None
    offset: float | None = None


class Tokens(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The tokens that are valid from now on: `PUT /tokens`."""

    tokens: list[TokenSpec]


class ControlError(Exception):
    """One sentence, with the status code it travels under."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Control:
    """The control surface as routes of a Starlette application."""

    def __init__(self, simulator: Simulator, *, remote: bool = False) -> None:
        self._simulator = simulator
        self._remote = remote
        endpoints: list[tuple[str, str, Callable[[Request, bytes], Any]]] = [
            ("GET", "/state", self._state),
            ("GET", "/runs", self._runs),
            ("POST", "/runs", self._start),
            ("GET", "/runs/{id}", self._run),
            ("POST", "/runs/{id}/finish", self._finish),
            ("GET", "/requests", self._requests),
            ("DELETE", "/requests", self._forget),
            ("GET", "/journal", self._journal),
            ("GET", "/jobs/{id}", self._job),
            ("PUT", "/jobs/{id}", self._put_job),
            ("PATCH", "/jobs/{id}", self._patch_job),
            ("POST", "/clock", self._clock),
            ("PUT", "/tokens", self._tokens),
            ("GET", "/webhooks", self._webhooks),
            ("PUT", "/webhooks", self._put_conduct),
            ("GET", "/faults", self._faults),
            ("POST", "/faults", self._add_fault),
            ("DELETE", "/faults", self._clear_faults),
            ("DELETE", "/faults/{id}", self._clear_faults),
        ]
        self.routes = [
            Route(f"/_simulator{path}", partial(self._serve, endpoint), methods=[method])
            for method, path, endpoint in endpoints
        ]

    async def _serve(self, endpoint: Callable[[Request, bytes], Any], request: Request) -> Response:
        local = request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
        if not (local or self._remote):
            words = "The control API answers on loopback only; start with --remote-control."
            return json_response({"error": words}, 403)
        try:
            # Runs move only when somebody looks. Without this, a test would see a run live whose end has passed.
            self._simulator.account.advance()
            return json_response(endpoint(request, await request.body()))
        except ScenarioError as error:
            return json_response({"error": str(error)}, 400)
        except ControlError as error:
            return json_response({"error": str(error)}, error.code)

    # State

    def _state(self, _request: Request, _body: bytes) -> Any:
        account, clock = self._simulator.account, self._simulator.clock
        return {
            "account_id": account.spec.id,
            "time": run_time(clock.stamp(clock.now())),
            "speed": clock.anchor.speed,
            "offset": clock.anchor.offset,
            "jobs": {job.id: job.spec.name for job in account.jobs.values()},
            "runs": Counter(run.status.name.lower() for run in account.runs.values()),
            "live": len(account.live),
        }

    def _runs(self, request: Request, _body: bytes) -> Any:
        wanted = request.query_params.get("job_id")
        runs = self._simulator.account.runs.values()
        return [_brief(run) for run in runs if wanted is None or str(run.job_id) == wanted]

    def _run(self, request: Request, _body: bytes) -> Any:
        return _brief(self._find_run(request))

    def _requests(self, _request: Request, _body: bytes) -> Any:
        return self._simulator.requests.report()

    def _forget(self, _request: Request, _body: bytes) -> Any:
        self._simulator.requests.clear()
        return {}

    def _journal(self, request: Request, _body: bytes) -> Any:
        wanted = request.query_params.get("action")
        return [entry for entry in self._simulator.journal.entries if wanted in (None, entry.action)]

    # Runs and jobs

    def _start(self, _request: Request, body: bytes) -> Any:
        somebody = _decode(body, Somebody)
        job = self._simulator.account.jobs.get(somebody.job_id)
        if job is None:
            raise ControlError(404, f"job_id: there is no job {somebody.job_id}.")
        return _brief(self._simulator.start(job, TriggerRequest(cause=somebody.cause), action="ui"))

    def _finish(self, request: Request, body: bytes) -> Any:
        run, wish = self._find_run(request), _decode(body, Finish)
        if wish.status not in (10, 20, 30):
            raise ControlError(
                400, f"status: {wish.status} does not end a run, use 10 (success), 20 (error) or 30 (cancelled)."
            )
        if not run.live:
            raise ControlError(409, f"Run {run.id} is over: {run.status.name.lower()}.")
        self._simulator.finish(run, Status(wish.status), wish.message)
        return _brief(run)

    def _find_run(self, request: Request) -> Run:
        run = self._simulator.account.runs.get(_number(request))
        if run is None:
            raise ControlError(404, f"There is no run {request.path_params['id']}.")
        return run

    def _job(self, request: Request, _body: bytes) -> Any:
        job = self._simulator.account.jobs.get(_number(request))
        if job is None:
            raise ControlError(404, f"There is no job {request.path_params['id']}.")
        return job.spec

    def _put_job(self, request: Request, body: bytes) -> Any:
        return self._change_job(request, {}, _decode(body, dict[str, Any]))

    def _patch_job(self, request: Request, body: bytes) -> Any:
        before = msgspec.to_builtins(self._job(request, b""))
        return self._change_job(request, before, _decode(body, dict[str, Any]))

    def _change_job(self, request: Request, before: dict[str, Any], change: dict[str, Any]) -> Any:
        spec = convert(before | change | {"id": _number(request)}, JobSpec)
        return self._simulator.put_job(spec).spec

    # The rest

    def _clock(self, _request: Request, body: bytes) -> Any:
        pace = _decode(body, Pace)
        self._simulator.set_clock(pace.speed, pace.offset)
        return self._state(_request, b"")

    def _tokens(self, _request: Request, body: bytes) -> Any:
        tokens = _decode(body, Tokens).tokens
        self._simulator.set_tokens(tokens)
        return {"count": len(tokens)}

    def _webhooks(self, _request: Request, _body: bytes) -> Any:
        hooks = self._simulator.webhooks
        return {"subscriptions": hooks.subscriptions, "conduct": hooks.conduct, "counts": hooks.counts}

    def _put_conduct(self, request: Request, body: bytes) -> Any:
        self._simulator.webhooks.conduct = _decode(body, Conduct)
        return self._webhooks(request, b"")

    def _faults(self, _request: Request, _body: bytes) -> Any:
        faults = self._simulator.faults
        silent = max(faults.silent_until - self._simulator.clock.real(), 0.0)
        return {"faults": [_described(fault) for fault in faults.active], "silent_seconds": silent}

    def _add_fault(self, _request: Request, body: bytes) -> Any:
        rule = _decode(body, Rule)
        strange = [kind for kind in rule.kinds if kind not in KINDS]
        if strange:
            raise ControlError(400, f"kinds: there is no kind {strange[0]!r}, the kinds are {', '.join(KINDS)}.")
        return _described(self._simulator.faults.add(rule))

    def _clear_faults(self, request: Request, _body: bytes) -> Any:
        self._simulator.faults.clear(_number(request) if "id" in request.path_params else None)
        return self._faults(request, b"")


def _number(request: Request) -> int:
    text = str(request.path_params["id"])
    if not text.isdecimal():
        raise ControlError(404, f"{text!r} is not an id.")
    return int(text)


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        document = msgspec.json.decode(body or b"{}")
    except msgspec.DecodeError as error:
        raise ControlError(400, f"The body is not JSON: {error}.") from None
    return convert(document, kind)


def _described(fault: Fault) -> dict[str, Any]:
    return {"id": fault.number, "hits": fault.hits, "rule": fault.rule}


def _brief(run: Run) -> dict[str, Any]:
    return {
        "id": run.id,
        "job_id": run.job_id,
        "status": run.status,
        "status_message": run.status_message,
        "cause": run.request.cause,
        "category": run.category,
        "retrying_run_id": run.retrying_run_id,
        "created_at": run_time(run.created_at),
        "started_at": run_time(run.started_at),
        "finished_at": run_time(run.finished_at),
    }
