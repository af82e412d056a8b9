"""What a connection's poller, run slots and looks report, to whom."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from watcher.lifecycle.facts import Observation, Place, Trouble


class Listener(Protocol):
    """Hears what dbt Cloud reports about objects. Called on the loop; it may follow and unfollow runs meanwhile."""

    def observed(self, uid: str, run_id: int, observation: Observation) -> None:
        """What dbt Cloud said of the run, which the object follows; the same may be reported again."""

    def troubled(self, uids: Collection[str], trouble: Trouble) -> None:
        """dbt Cloud cannot be asked about these objects; reported after each failed try."""

    def answering(self, uids: Collection[str]) -> None:
        """dbt Cloud answers about these objects, for the first time or again."""

    def turned(self, uid: str) -> None:
        """It is the object's turn to have the steps of its run read."""

    def placed(self, uid: str, place: Place | None) -> None:
        """The object's place in the line for a run slot; None: it may start."""
