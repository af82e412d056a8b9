"""The life of one random object: made, edited, forged, stripped and deleted by somebody with every right.

What is done is drawn from the campaign's seed and the object's number; when it meets the watcher is up to the machines.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, NamedTuple

from dbtrun.api import API_VERSION, FINAL_PHASES, FINALIZER, KIND, Phase
from tests.abuse.api import Answer, Api, Seen, phase_of
from tests.abuse.forgeries import Forger
from tests.abuse.schema import RULES, SPEC, SPEC_BREAKS, STATUS_BREAKS, Maker, put
from tests.stack import until
from tests.stack.dbt import ACCOUNT, JOBS

HOLD: Final = "example.com/hold"
"""A finalizer of somebody else."""
MUTABLE: Final = (
    "queueDeadlineSeconds",
    "activeDeadlineSeconds",
    "lostContactDeadlineSeconds",
    "pollIntervalSeconds",
    "suspend",
    "cancel",
    "deletionPolicy",
    "ttlSecondsAfterFinished",
)
IMMUTABLE: Final = ("connectionRef", "job", "accountId", "cause", "overrides", "retryOf", "retry", "artifacts")
MOMENTS: Final = (None, *(phase.value for phase in Phase if not phase.final), "final")
PATIENCE: Final = 3.0
"""Seconds for which a life waits for the moment it wants to do something at."""


class Complaint(NamedTuple):
    """A promise that was not kept, to whom, and how."""

    promise: str
    name: str
    what: str


@dataclass
class Ledger:
    """What all lives together did and met."""

    seed: int
    complaints: list[Complaint] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    edited_at: Counter[str] = field(default_factory=Counter)
    """Edits of a spec by the phase that they met."""
    uids: list[str] = field(default_factory=list)
    theirs: list[int] = field(default_factory=list)
    """dbt Cloud runs that nobody's object started."""
    strangers: tuple[int, ...] = ()
    """Ids of runs that dbt Cloud does not know: it takes the watcher a minute to believe so."""

    def complain(self, promise: str, name: str, what: str) -> None:
        self.complaints.append(Complaint(promise, name, what))


@dataclass
class Life:
    """One object and whoever mistreats it."""

    number: int
    api: Api
    seen: Seen
    ledger: Ledger
    uid: str = ""
    writes: int = 0
    """Accepted writes of ours."""
    forged: bool = False
    stripped: bool = False
    orphaned: bool = False
    limit: int = 0
    """The retries that it may make."""

    def __post_init__(self) -> None:
        self.random = Random(f"{self.ledger.seed}/{self.number}")  # noqa: S311 - repeatable
        self.make = Maker(self.random)
        long = self.random.random() < 0.05
        self.name = f"{'l.' * 122 if long else ''}life-{self.number}"

    @property
    def object(self) -> dict[str, Any] | None:
        """The object as it was last seen, if it is there."""
        return self.seen.objects.get(self.name)

    async def live(self) -> None:
        """Made, and then mistreated some times."""
        if self.random.random() < 0.3:
            await self._refused_from_birth()
            return
        answer = await self.api.create(self._body(self._spec()))
        if not self._accepted("create", answer):
            self.ledger.complain(
                "refusals", self.name, f"a valid object was refused: {answer.code} {answer.message[:500]}"
            )
            return
        self.uid = answer.body["metadata"]["uid"]
        self.ledger.uids.append(self.uid)
        self.limit = answer.body["spec"].get("retry", {}).get("limit", 0)
        self.orphaned = answer.body["spec"].get("deletionPolicy") == "Orphan"
        await self._is_seen()
        for _ in range(self.random.choice([0, 1, 1, 2, 3, 5])):
            await self._mistreat()

    async def _is_seen(self) -> None:
        async def seen() -> bool:
            return self.name in self.seen.versions

        await until(seen, 300, f"{self.name} on the watch")

    # ── birth ──

    def _body(self, spec: dict[str, Any]) -> dict[str, Any]:
        metadata: dict[str, Any] = {"name": self.name}
        if self.random.random() < 0.2:
            metadata["finalizers"] = self.random.choice([[HOLD], [FINALIZER], [HOLD, FINALIZER]])
        if self.random.random() < 0.2:
            metadata["annotations"] = {"example.com/text": self.make.text(self.random.choice([1, 100, 30_000]))}
            metadata["labels"] = {"example.com/label": "a" * 63}
        return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}

    def _spec(self) -> dict[str, Any]:
        """Random, but steered to where something happens."""
        spec, random = self.make.spec(), self.random
        if random.random() < 0.8:
            spec.pop("connectionRef", None)
        if random.random() < 0.8:
            spec.pop("accountId", None)
        elif random.random() < 0.5:
            spec["accountId"] = ACCOUNT
        if "job" in spec and random.random() < 0.85:
            spec["job"] = self._known_job()
        elif "runId" in spec and random.random() < 0.7 and self.ledger.theirs:
            spec["runId"] = random.choice(self.ledger.theirs)
        for rare in ("suspend", "cancel"):
            if random.random() < 0.7:
                spec.pop(rare, None)
        return spec

    def _known_job(self) -> dict[str, Any]:
        job = self.random.choices(["success", "failure", "flaky", "endless", "slow"], [8, 2, 2, 2, 1])[0]
        if self.random.random() < 0.8:
            return {"id": JOBS[job]}
        return {"name": job, "project": "Analytics", "environment": "Production"}

    async def _refused_from_birth(self) -> None:
        body = self._body(self._spec())
        kind = self.random.random()
        if kind < 0.6:
            wrong = self.random.choice(SPEC_BREAKS)
            body, named = wrong.applied(body, self.random), wrong.named
        elif kind < 0.85:
            change, named = self.random.choice(RULES)
            if "job" in change:
                body["spec"] = {key: body["spec"][key] for key in body["spec"].keys() & {"cause", "suspend"}}
            merged = {**body["spec"], **change}
            body["spec"] = {key: value for key, value in merged.items() if value is not None}
        else:
            body, named = self._odd_metadata(body)
        self._must_refuse("create", await self.api.create(body), named)

    def _odd_metadata(self, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
        field_, value = self.random.choice(
            [
                ("name", "Upper_Case"),
                ("name", "x" * 254),
                ("name", "a/../b"),
                ("finalizers", ["no domain"]),
                ("labels", {"k": "ü"}),
                ("labels", {"k": "x" * 64}),
                ("annotations", {"a": "x" * (256 * 1024 + 1)}),
                ("annotations", {"a b": ""}),
            ]
        )
        return put(body, ("metadata", field_), value), f"metadata.{field_}"

    # ── mistreatment ──

    async def _mistreat(self) -> None:
        await self._moment(self.random.choice(MOMENTS))
        if self.object is None:
            return
        act = self.random.choices(
            [
                self._edit,
                self._edit_wrongly,
                self._forge,
                self._forge_wrongly,
                self._strip,
                self._decorate,
                self._delete,
            ],
            [8, 3, 4, 2, 2, 2, 2],
        )[0]
        await act()

    async def _moment(self, wanted: str | None) -> None:
        """Until the object is in that phase, or the patience is at its end."""

        async def come() -> bool:
            body = self.object
            return body is None or (wanted is not None and self._in(wanted, phase_of(body)))

        with suppress(AssertionError):
            await until(come, PATIENCE if wanted else self.random.random())

    @staticmethod
    def _in(wanted: str, phase: str) -> bool:
        return phase in FINAL_PHASES if wanted == "final" else phase == wanted

    async def _edit(self) -> None:
        name = self.random.choice(MUTABLE)
        schema = SPEC["properties"][name]
        value = True if name == "cancel" else self.make.value(schema, f"spec.{name}")
        body = self.object
        self.ledger.edited_at[phase_of(body) if body else "gone"] += 1
        if value == "Orphan":
            self.orphaned = True
        answer = await self.api.patch(self.name, {"spec": {name: value}})
        if not self._accepted("edit", answer) and not answer.gone:
            self.ledger.complain(
                "refusals", self.name, f"a valid edit of {name} was refused: {answer.code} {answer.message[:500]}"
            )

    async def _edit_wrongly(self) -> None:
        body = self.object
        if body is None:
            return
        if self.random.random() < 0.5:
            wrong = self.random.choice(SPEC_BREAKS)
            change, named = {"spec": wrong.applied(body, self.random)["spec"]}, wrong.named
        else:
            name = self.random.choice(IMMUTABLE)
            value = self.make.value(SPEC["properties"][name], f"spec.{name}")
            change, named = {"spec": {name: value}}, "spec"
            if {**body["spec"], name: value} == body["spec"]:
                return
            if isinstance(value, dict) and {**body["spec"].get(name, {}), **value} == body["spec"].get(name):
                return
        self._must_refuse("edit", await self.api.patch(self.name, change), named)

    async def _forge(self) -> None:
        body = self.object
        if body is None:
            return
        forger = Forger(self.make, self.ledger.uids, [*self.ledger.theirs, *self.ledger.strangers])
        kind, forged = forger.forge(deepcopy(body.get("status", {})))
        self.forged = True
        change = dict.fromkeys(body.get("status", {})) | forged
        answer = await self.api.patch(self.name, {"status": change}, "status")
        if not self._accepted(f"forged {kind}", answer):
            self._must_refuse("forge", answer, "status")

    async def _forge_wrongly(self) -> None:
        wrong = self.random.choice(STATUS_BREAKS)
        change = wrong.applied({"status": {}}, self.random)
        self._must_refuse("forge", await self.api.patch(self.name, change, "status"), wrong.named)

    async def _strip(self) -> None:
        """All finalizers away, whatever they were for."""
        self.stripped = True
        self._accepted("strip", await self.api.patch(self.name, {"metadata": {"finalizers": None}}))

    async def _decorate(self) -> None:
        body = self.object
        if body is None or body["metadata"].get("deletionTimestamp"):
            return
        theirs = body["metadata"].get("finalizers", [])
        change = self.random.choice(
            [
                {"annotations": {"example.com/note": self.make.text(self.random.choice([1, 50_000]))}},
                {"labels": {"example.com/n": str(self.random.randint(0, 9))}},
                {"finalizers": [*theirs, HOLD] if HOLD not in theirs else theirs},
            ]
        )
        self._accepted("decorate", await self.api.patch(self.name, {"metadata": change}))

    async def _delete(self) -> None:
        policy = self.random.choice(["Background", "Foreground", "Orphan"])
        self._accepted("delete", await self.api.delete(self.name, policy))

    # ── what the API server says ──

    def _accepted(self, what: str, answer: Answer) -> bool:
        if answer.done:
            self.ledger.accepted[what] += 1
            self.writes += 1
        return answer.done

    def _must_refuse(self, what: str, answer: Answer, named: str) -> None:
        """A refusal is a sentence for people, and names the field."""
        if answer.gone and what != "create":
            return
        if answer.done:
            self.ledger.accepted[what] += 1
            self.writes += 1
            self.ledger.complain("refusals", self.name, f"{what} was accepted although {named} is wrong")
            return
        self.ledger.refused[what] += 1
        if answer.code not in (400, 422) or answer.body.get("reason") not in ("Invalid", "BadRequest"):
            self.ledger.complain(
                "refusals", self.name, f"{what} with a wrong {named}: {answer.code} {answer.message[:300]}"
            )
        elif named not in answer.message:
            self.ledger.complain("refusals", self.name, f"the refusal does not name {named}: {answer.message[:300]}")
