"""A short campaign of random objects; `make abuse` is the long one. Played once; each promise is a test."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator
from random import Random

import pytest
import pytest_asyncio

from dbtrun.api import FINAL_PHASES
from tests.abuse.api import Api
from tests.abuse.campaign import campaign
from tests.abuse.figures import Figures
from tests.abuse.schema import RULES, SPEC_BREAKS, STATUS_BREAKS, Maker
from tests.controlplane import ControlPlane
from tests.stack.site import dbt_run, install_crd

COUNT = 80
SEED = 3

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(1_800)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def figures(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Figures]:
    figures = await campaign(plane, tmp_path_factory.mktemp("abuse"), count=COUNT, seed=SEED, patient=False)
    print(json.dumps(figures.told()))
    yield figures


@pytest.mark.parametrize("promise", ["refusals", "telling", "truth", "starts", "ends", "health", "bounds"])
async def test_no_random_object_breaks_a_promise(figures: Figures, promise: str) -> None:
    assert [complaint for complaint in figures.broken if complaint.promise == promise] == []


async def test_something_was_done_in_every_way(figures: Figures) -> None:
    done = figures.ledger
    assert {"create", "edit", "strip", "decorate", "delete"} <= set(done.accepted)
    assert sum(kind.startswith("forged") for kind in done.accepted) >= 7
    assert {"create", "edit", "forge"} <= set(done.refused)
    # More of them is for the long one: which phase an edit of a short one meets is up to the machine.
    assert "Pending" in done.edited_at
    assert {"Submitting", "Queued", "Running"} & set(done.edited_at)
    assert FINAL_PHASES & set(done.edited_at)


async def test_forged_statuses_end_their_objects(figures: Figures) -> None:
    assert figures.reasons["StatusTampered"] > 0


async def test_every_field_that_is_wrong_is_named(plane: ControlPlane) -> None:
    """Each in turn, whatever the campaign has met."""
    namespace = f"abuse-{secrets.token_hex(4)}"
    await asyncio.to_thread(plane.create_namespace_sync, namespace)
    await install_crd(plane)
    random = Random(SEED)  # noqa: S311 - repeatable
    unnamed = []
    async with Api(plane.kubeconfig, namespace) as api:
        assert (await api.create(dbt_run("forged"))).done
        for broken in SPEC_BREAKS:
            body = broken.applied({**dbt_run("wrong"), "spec": Maker(random).spec()}, random)
            answer = await api.create(body)
            unnamed += [] if broken.named in answer.message else [(broken.named, answer)]
        for broken in STATUS_BREAKS:
            answer = await api.patch("forged", broken.applied({"status": {}}, random), "status")
            unnamed += [] if broken.named in answer.message else [(broken.named, answer)]
    assert unnamed == []
    assert len(SPEC_BREAKS) + len(STATUS_BREAKS) + len(RULES) > 500
