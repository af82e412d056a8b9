"""Where an object's runs are: the account that its first claim named, whatever its connection names now.

A first claim that was released because nothing was sent names none.

Accounts and hosts number their runs on their own, so the number of a run means another run elsewhere.
"""

from __future__ import annotations

from dbtrun.api import Status


def misdirected(status: Status, host: str, account_id: int) -> str | None:
    """Why nothing may be done through a connection to this account, in a sentence; None: it is the right one.

    A status of an earlier release names no host: then the account decides. Before a claim, a status names no account.
    """
    if (
        not status.attempts
        or status.account_id is None
        or (status.account_id, status.host or host) == (account_id, host)
    ):
        return None
    place = f"account {status.account_id}" + (f" on {status.host}" if status.host else "")
    run = "The runs of this object are" if status.run_id is None else f"Run {status.run_id} is"
    return (
        f"{run} in {place}, but the connection is now for account {account_id} on {host}. The watcher does nothing "
        "for this object there: let the connection name the former account again, or create a new object."
    )
