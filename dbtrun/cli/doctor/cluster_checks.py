"""What the API server's answers mean for a first run. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from dbtrun.api import CONNECTION_SECRET_TYPE, GROUP, PLURAL
from dbtrun.cli.doctor.cluster_facts import Absent, ClusterFacts, SecretFacts, Unknown, WatcherFacts, names
from dbtrun.cli.doctor.finding import Finding, bad, good, unknown, warning
from dbtrun.cli.doctor.mirror_checks import findings as mirror_findings
from dbtrun.connection.hosts import DBT_HOSTS, Hosts
from dbtrun.connection.secret import Connection, InvalidConnection, parse_connection

SHOWN: Final = 3
"""Names in a sentence."""
INSTALL: Final = "Install the chart: helm install dbtrun helm/dbtrun -n NAMESPACE --create-namespace"
CRD: Final = f"{PLURAL}.{GROUP}"


def findings(facts: ClusterFacts) -> Iterator[Finding]:
    """The problems, and what is as it should be."""
    # Without the CRD, whatever else is missing only follows from that.
    checks = FIRST_CHECKS if isinstance(facts.missing_fields, Absent) else FIRST_CHECKS + CHECKS
    for check in checks:
        yield from check(facts)


def hosts_of(facts: ClusterFacts) -> Hosts:
    """The hosts that the watcher lets connections name."""
    watcher = serving(facts)
    return hosts_in({} if watcher is None else watcher.env)


def hosts_in(env: Mapping[str, str]) -> Hosts:
    """The same, by the environment of the watcher."""
    # What click takes for true: the watcher reads the same variable with click.
    allowed = names(env.get("DBTRUN_CONNECTION_HOSTS", "")) or DBT_HOSTS
    return Hosts(allowed, env.get("DBTRUN_LOOPBACK_CONNECTIONS", "").lower() in ("true", "1", "yes", "on", "t", "y"))


def serving(facts: ClusterFacts) -> WatcherFacts | None:
    """A watcher that serves the namespace."""
    return next(iter(facts.serving), None)


def connection_of(facts: ClusterFacts) -> Connection | None:
    """The connection that a run would use; None: it cannot be read or used."""
    if not isinstance(facts.secret, SecretFacts) or facts.secret.type != CONNECTION_SECRET_TYPE:
        return None
    try:
        return parse_connection(facts.secret.data, "", hosts_of(facts))
    except InvalidConnection:
        return None


def _namespace(facts: ClusterFacts) -> Iterator[Finding]:
    if isinstance(facts.namespace_phase, Absent):
        yield bad(
            "namespace",
            f"There is no namespace {facts.namespace}.",
            f"Choose another with -n, or create it: kubectl create namespace {facts.namespace}",
        )
    elif facts.namespace_phase == "Terminating":
        yield bad("namespace", f"The namespace {facts.namespace} is being deleted.", "Choose another with -n.")


def _crd(facts: ClusterFacts) -> Iterator[Finding]:
    match facts.missing_fields:
        case Absent():
            yield bad("crd", f"The cluster has no CRD {CRD}: DbtRun is not installed.", INSTALL)
        case Unknown(why=why):
            yield unknown("crd", f"The CRD could not be read: {why}.")
        case missing if missing:
            told = ", ".join(sorted(missing)[:SHOWN])
            yield bad(
                "crd",
                f"The CRD is older than this program: it lacks {told}" + ("…" if len(missing) > SHOWN else "") + ".",
                "Upgrade the chart that owns the CRD: helm upgrade dbtrun helm/dbtrun --reset-then-reuse-values",
            )
        case _:
            yield good("crd", "The CRD is installed, and as new as this program.")


def _rights(facts: ClusterFacts) -> Iterator[Finding]:
    missing = [verb for verb, allowed in facts.rights.items() if not allowed]
    if not missing:
        yield good("rights", f"You may do everything with DbtRuns in the namespace {facts.namespace}.")
        return
    what = f"You may not {', '.join(missing)} DbtRuns in the namespace {facts.namespace}."
    way = "Ask an administrator for the role edit in the namespace (view, to look at DbtRuns only)."
    # Without one of these no run can be created and followed. The others are needed to stop one.
    needed = {"get", "list", "watch", "create"} & set(missing)
    yield bad("rights", what, way) if needed else warning("rights", what, way)


def _watchers(facts: ClusterFacts) -> Iterator[Finding]:
    if not facts.watchers:
        # It may be in a namespace that the user may not look into. Then it is known by what it has written.
        if facts.seen and not facts.unseen:
            yield good("watcher", f"A watcher serves the namespace: it has written the status of {facts.seen} DbtRuns.")
        elif facts.everywhere:
            yield bad("watcher", "No watcher is installed.", INSTALL)
        else:
            yield unknown(
                "watcher",
                "You may not list the Deployments of other namespaces, so a watcher there cannot be found.",
                f"Ask an administrator whether a watcher serves the namespace {facts.namespace}.",
            )
    elif not facts.serving:
        others = ", ".join(sorted({name for watcher in facts.watchers for name in watcher.served}))
        yield bad(
            "watcher",
            f"No watcher serves the namespace {facts.namespace}; {facts.watchers[0]} serves {others}.",
            f"Add {facts.namespace} to the Helm value watchNamespaces of that release, or choose another with -n.",
        )
    elif len(facts.serving) > 1:
        both = " and ".join(map(str, facts.serving))
        yield bad(
            "watcher",
            f"More than one watcher serves the namespace {facts.namespace}: {both}.",
            "Remove the namespace from watchNamespaces of all but one of them: each has its own Lease.",
        )


def _leases(facts: ClusterFacts) -> Iterator[Finding]:
    for watcher in facts.serving:
        logs = f"kubectl -n {watcher.namespace} logs {watcher.kind.lower()}/{watcher.name} --all-containers"
        look = f"See why its pods do not work: kubectl -n {watcher.namespace} get pods; {logs}"
        match watcher.lease:
            case Absent():
                yield bad("watcher", f"The watcher {watcher} has never worked: it has no Lease.", look)
            case Unknown() if watcher.ready:
                yield good("watcher", f"The watcher {watcher} has {watcher.ready} ready pods.")
            case Unknown(why=why):
                yield unknown("watcher", f"Whether the watcher {watcher} works is not known: {why}.", look)
            case lease if not lease.holder:
                yield bad("watcher", f"The watcher {watcher} does not run: nobody holds its Lease.", look)
            case lease if not lease.renewed:
                silent = f"{lease.holder} has stopped renewing its Lease"
                yield bad("watcher", f"The watcher {watcher} does not respond: {silent}.", look)
            case _:
                yield good("watcher", f"The watcher {watcher} serves the namespace and renews its Lease.")


def _unseen(facts: ClusterFacts) -> Iterator[Finding]:
    if facts.unseen:
        told = ", ".join(facts.unseen[:SHOWN]) + ("…" if len(facts.unseen) > SHOWN else "")
        yield bad(
            "status",
            f"No watcher has seen these DbtRuns: {told}.",
            "See the watcher above. These DbtRuns continue as soon as a watcher serves the namespace.",
        )


def _connection(facts: ClusterFacts) -> Iterator[Finding]:
    watcher = serving(facts)
    if facts.wanted is None and watcher is not None:
        if watcher.env.get("DBTRUN_CONNECTION_DIR"):
            yield unknown("connection", "The default connection is in files of the watcher's pod.", "Use --from-pod.")
            return
        if not watcher.env.get("DBTRUN_CONNECTION_SECRET"):
            yield bad(
                "connection",
                f"The watcher {watcher} has no default connection.",
                "Name a Secret of the namespace: dbtrun doctor --connection SECRET, and spec.connectionRef in DbtRuns.",
            )
            return
        if not watcher.lends(facts.namespace):
            yield bad(
                "connection",
                f"The default connection of {watcher} does not serve the namespace {facts.namespace}.",
                f"Add {facts.namespace} to the Helm value connection.namespaces, or use a Secret of the namespace "
                "(spec.connectionRef).",
            )
            return
    yield from _secret(facts)


def _secret(facts: ClusterFacts) -> Iterator[Finding]:
    watcher = serving(facts)
    match facts.secret:
        case None:
            yield unknown(
                "connection", "It is not known which connection runs would use.", "Name it with --connection."
            )
        case Absent():
            name = facts.wanted or (watcher.env["DBTRUN_CONNECTION_SECRET"] if watcher else "dbt-cloud")
            namespace = facts.namespace if facts.wanted or watcher is None else watcher.namespace
            yield missing_secret(namespace, name)
        case Unknown():
            yield unknown(
                "connection",
                "You may not read the Secret of the connection, so it was not checked.",
                "Check it from the watcher's pod with --from-pod, or give a token with DBT_CLOUD_TOKEN, --host and "
                "--account-id.",
            )
        case secret:
            yield secret_keys(secret, hosts_of(facts))
    if facts.readable_by_watcher is False and not isinstance(facts.secret, Absent):
        yield bad(
            "connection rights",
            "The watcher may not read the Secret of the connection.",
            "Add its namespace to the Helm value secretNamespaces.",
        )


def missing_secret(namespace: str, name: str) -> Finding:
    """There is no such Secret."""
    return bad(
        "connection",
        f"There is no Secret {name} in the namespace {namespace}.",
        f"Create it: kubectl -n {namespace} create secret generic {name} --type={CONNECTION_SECRET_TYPE} "
        "--from-literal=host=HOST --from-literal=account-id=ID --from-file=token",
    )


def secret_keys(secret: SecretFacts, hosts: Hosts) -> Finding:
    """Whether the Secret is a connection to one of the hosts."""
    where = f"Secret {secret.namespace}/{secret.name}" if secret.namespace else f"directory {secret.name}"
    if secret.type != CONNECTION_SECRET_TYPE:
        return bad(
            "connection",
            f"The {where} is of type {secret.type}, not {CONNECTION_SECRET_TYPE}.",
            "Delete it and create it with that type: the type of a Secret cannot be changed.",
        )
    try:
        parse_connection(secret.data, where, hosts)
    except InvalidConnection as error:
        # The messages of parse_connection say what is wrong, then what to do.
        message, _, remedy = str(error).partition("; ")
        return bad("connection", f"{message}.", f"{remedy[:1].upper()}{remedy[1:]}")
    return good("connection", f"The {where} has every key that a connection needs.")


def _dry_run(facts: ClusterFacts) -> Iterator[Finding]:
    if facts.dry_run is not None:
        yield bad(
            "dry run",
            f"The API server would refuse a DbtRun: {facts.dry_run.rstrip('.')}.",
            "Correct what the message names: a quota, an admission policy or the CRD.",
        )


def _stale_write(facts: ClusterFacts) -> Iterator[Finding]:
    if facts.stale_write == "accepted":
        yield bad(
            "stale writes",
            "The API server accepts a write with an old version: two watchers could start the same run.",
            "Something between you and the API server changes requests. Find it, or use another API server.",
        )
    elif facts.stale_write == "refused":
        yield good("stale writes", "The API server refuses a write with an old version.")
    else:
        yield unknown(
            "stale writes", "It was not checked whether a write with an old version is refused: there is no DbtRun yet."
        )


Check = Callable[[ClusterFacts], Iterator[Finding]]
FIRST_CHECKS: Final[tuple[Check, ...]] = (_namespace, _crd)
CHECKS: Final[tuple[Check, ...]] = (
    _rights,
    _watchers,
    _leases,
    _unseen,
    mirror_findings,
    _connection,
    _dry_run,
    _stale_write,
)
"""In the order in which they are reported."""
