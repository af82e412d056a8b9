"""What this process knows of each object besides the object itself, and who is woken when that changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from functools import cache
from typing import Final

from dbtrun.api import Reason
from watcher.clock import Clock
from watcher.lifecycle.facts import Observation, Place, Trouble
from watcher.lifecycle.known import DOUBTFUL, OF_AN_ACCOUNT, Known

REPORTED: Final = ("observation", "missing_since", "trouble", "answered", "place", "turn")
"""What is reported by dbt Cloud while a decision is carried out."""


class Knowledge:
    """uid → Known. It hears what dbt Cloud reports; what changes a decision wakes the object.

    Args:
        wake: called with the uid of an object that must be looked at.
        doubt: called with the uid of an object in trouble, and the reason: its connection may be the wrong one.
    """

    def __init__(self, clock: Clock, wake: Callable[[str], None], doubt: Callable[[str, Reason], None]) -> None:
        self._clock = clock
        self._wake = wake
        self._doubt = doubt
        self._known: dict[str, Known] = {}
        self._since: datetime | None = None

    def begin(self) -> None:
        """From now on this process sees every start. Of an object that it meets earlier, each past is looked up."""
        self._since = self._clock().wall

    def meet(self, uid: str, attempt: int) -> None:
        """An object is looked at for the first time.

        Args:
            attempt: the number of its last attempt, if it was finished and left alone; 0 for any other.
        """
        self._known[uid] = _at_first(attempt, self._since)

    def of(self, uid: str) -> Known:
        """What is known of an object that was met.

        Raises:
            KeyError: it was not met, or is forgotten.
        """
        return self._known[uid]

    def keep(self, uid: str, known: Known) -> None:
        """Replaces what is known of an object."""
        self._known[uid] = known

    def learn(self, uid: str, before: Known, performed: Known) -> None:
        """Takes what a decision brought, but keeps what was reported while it was carried out."""
        meanwhile = self._known[uid]
        if meanwhile is not before:
            # Field by field: dbt Cloud's reports arrive while the decision waits for its reply, and must not be lost
            # with it. What the decision itself has set is the newer.
            # But what was reported of one account is not about the next one, to which the decision connected.
            moved = before.asked not in (None, performed.asked)
            newer = [
                name
                for name in REPORTED
                if getattr(performed, name) == getattr(before, name) and not (moved and name in OF_AN_ACCOUNT)
            ]
            performed = replace(performed, **{name: getattr(meanwhile, name) for name in newer})
        self._known[uid] = performed

    def forget(self, uid: str) -> None:
        """The object is gone; unknown ones are no error."""
        self._known.pop(uid, None)

    # ── what is reported ──

    def observed(self, uid: str, run_id: int, observation: Observation) -> None:
        """dbt Cloud said this of the run; another run than the one that the object is about is ignored."""
        before = self._known.get(uid)
        if before is None or before.about != run_id:
            return
        missing = None
        if observation.run is None:  # a denial is dated when it is first heard
            missing = observation.at.mono if before.missing_since is None else before.missing_since
        self._known[uid] = replace(before, observation=observation, missing_since=missing, trouble=None, answered=True)
        same = before.observation is not None and before.observation.run == observation.run
        if not (same and before.answered and before.trouble is None):
            self._wake(uid)

    def foresee(self, uid: str, run_id: int, observation: Observation) -> None:
        """What a list said of the run of an object that was just created for it."""
        before = self._known.get(uid)
        if before is not None and before.observation is None:
            self._known[uid] = replace(before, about=run_id, observation=observation, answered=True)

    def troubled(self, uids: Iterable[str], trouble: Trouble) -> None:
        """dbt Cloud cannot be asked about these objects."""
        for uid in uids:
            known = self._known.get(uid)
            if known is None:
                continue
            self._doubt(uid, trouble.reason)
            if trouble.reason in DOUBTFUL:
                # Without an account the next decision is Connect, which reads the Secret again.
                known = replace(known, account_id=None)
            # One outage, however its faults vary: spec.lostContactDeadlineSeconds counts from the first of them.
            since = known.trouble.since if known.trouble else trouble.since
            self._known[uid] = replace(known, trouble=replace(trouble, since=since))
            self._wake(uid)

    def answering(self, uids: Iterable[str]) -> None:
        """dbt Cloud answers about these objects again."""
        for uid in uids:
            known = self._known.get(uid)
            if known is not None and (known.trouble is not None or not known.answered):
                self._known[uid] = replace(known, trouble=None, answered=True)
                self._wake(uid)

    def mended(self, uids: Iterable[str]) -> None:
        """The Secrets of these objects' connections have changed: the objects connect again without waiting."""
        for uid in uids:
            known = self._known.get(uid)
            if known is not None and known.trouble is not None:
                trouble = replace(known.trouble, retry_at=self._clock().mono)
                self._known[uid] = replace(known, trouble=trouble, account_id=None)
                self._wake(uid)

    def turned(self, uid: str) -> None:
        """It is the object's turn to have the steps of its run read."""
        known = self._known.get(uid)
        if known is not None:
            self._known[uid] = replace(known, turn=self._clock().mono)
            self._wake(uid)

    def placed(self, uid: str, place: Place | None) -> None:
        """The object's place in the line for a run slot has changed; None: it may start."""
        known = self._known.get(uid)
        if known is not None:
            self._known[uid] = replace(known, place=place)
            self._wake(uid)


@cache
def _at_first(attempt: int, since: datetime | None) -> Known:
    """What is known of an object that was not looked at yet: one value for all, as there are many."""
    return Known(submitted=attempt, since=since)
