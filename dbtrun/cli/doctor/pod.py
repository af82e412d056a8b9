"""`dbtrun doctor --from-pod`: runs `dbtrun check` in the pod of the watcher that serves the namespace."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from dbtrun.cli.cluster import Api
from dbtrun.cli.doctor.cluster_checks import serving
from dbtrun.cli.doctor.cluster_facts import ClusterFacts, LeaseFacts
from dbtrun.cli.doctor.dbt_facts import MAX_SELECTED
from dbtrun.cli.doctor.finding import Finding, Told, Verdict, bad, unknown
from dbtrun.cli.doctor.mirror_checks import selected_jobs
from dbtrun.cli.words import one_line
from dbtrun.kube.errors import Forbidden, KubeError
from dbtrun.kube.execute import Executed, Place, execute

LIMIT: Final = 1024 * 1024
"""Bytes that are read of what the check prints."""
MAX_WORDS: Final = 500
USAGE: Final = 2
"""The exit code of a program that does not know the command or an option."""


async def asked(api: Api, facts: ClusterFacts, job_id: int | None, *, start: bool) -> Told:
    """What the pod of the watcher finds out about dbt Cloud.

    Args:
        api: the API server, as the user.
        facts: what is known of the watcher and of the connection.
        job_id: the job that the user wants to run, if it is known.
        start: whether to start, find and cancel a run of that job.
    """
    place = acting(facts)
    if place is None:
        why = "dbt Cloud was not asked from the watcher's pod: no pod of a watcher for this namespace is known."
        return Told((unknown("pod", why, "See the watcher above."),))
    try:
        ended = await execute(api.credentials, place, argv(facts, job_id, start=start), limit=LIMIT)
    except Forbidden as error:
        ask = f"Ask an administrator for the verbs get and create on pods/exec in the namespace {place.namespace}."
        return Told((unknown("pod", str(error), ask),))
    except KubeError as error:
        message = f"dbt Cloud was not asked from the pod {place}: {str(error).rstrip('.')}."
        return Told((unknown("pod", message, "Try again, or see the watcher above."),))
    return understood(place, ended)


def acting(facts: ClusterFacts) -> Place | None:
    """The container of the watcher that holds the Lease: its holder is the name of the pod and a random part."""
    watcher = serving(facts)
    if watcher is None or not isinstance(watcher.lease, LeaseFacts) or not watcher.lease.holder:
        return None
    return Place(watcher.namespace, watcher.lease.holder.rpartition("_")[0], watcher.container)


def argv(facts: ClusterFacts, job_id: int | None, *, start: bool) -> Sequence[str]:
    """The command that the pod runs."""
    connection = () if facts.wanted is None else ("--namespace", facts.namespace, "--connection", facts.wanted)
    job = () if job_id is None else ("--start" if start else "--job", str(job_id))
    jobs = list(dict.fromkeys(selected_jobs(facts)))[:MAX_SELECTED]
    mirrored = [word for one in jobs for word in ("--mirrored", str(one))]
    return ("dbtrun", "check", *connection, *job, *mirrored)


def understood(place: Place, ended: Executed) -> Told:
    """What the command has said. It may be of another release, so only known words count."""
    if ended.code:
        said = one_line(ended.err)[:MAX_WORDS].rstrip(".")
        older = "Upgrade the watcher to the release of this program: it does not have this check."
        look = f"See the pod: kubectl -n {place.namespace} describe pod {place.pod}"
        message = f"The check in the pod {place} ended with code {ended.code}: {said}."
        return Told((unknown("pod", message, older if ended.code == USAGE else look),))
    try:
        told = msgspec.json.decode(ended.out, type=Told)
    # What the pod runs is not known: anyone who may change its Deployment chooses what it prints.
    except (msgspec.MsgspecError, ValueError, RecursionError):
        message = f"The check in the pod {place} printed something other than its findings."
        return Told((bad("pod", message, "Upgrade the watcher or this program: their releases differ."),))
    return msgspec.structs.replace(told, findings=tuple(map(_shown, told.findings)))


def _shown(finding: Finding) -> Finding:
    """The finding in plain words: a terminal obeys nothing of them."""
    message, remedy = (one_line(words)[:MAX_WORDS] for words in (finding.message, finding.remedy))
    return Finding(finding.check, Verdict(finding.verdict), message, remedy)
