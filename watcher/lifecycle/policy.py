"""The durations the core reasons with: each in seconds, each with the reason for its value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dbtrun.values import backoff

LONGEST_LOOKUP_PAUSE: Final = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How long the core waits for what."""

    submit_window: float = 30.0
    """A claimed start is sent within this time or not at all, by the monotonic clock of the claimer: so that
    a claim that another process finds can be resolved."""

    # How long dbt Cloud's lists may lag behind a start is undocumented: this allows a minute.
    quiet_period: float = 120.0
    """After a lost answer nothing is sent again for this long: submit_window, plus the longest time a start request may
    take (30 s), plus the time a new run may need to show in dbt Cloud's lists, with a margin."""

    clock_skew: float = 600.0
    """How far dbt Cloud's clock may be behind ours: a look-up goes back this much further than the claim."""

    lookup_backoff: float = 5.0
    """First pause between two look-ups of an undecided start; it doubles up to LONGEST_LOOKUP_PAUSE."""

    cancel_repeat: float = 30.0
    """A cancel is sent again if dbt Cloud has not confirmed the end by then."""

    missing_grace: float = 60.0
    """dbt Cloud must deny a run for this long before it counts as gone: replicas lag, permissions flicker."""

    adopt_grace: float = 5.0
    """The same for a run that was never seen: a mistyped id should be reported soon."""

    trouble_grace: float = 10.0
    """A fault shorter than this is not written: an outage of seconds must not rewrite every object of an account."""

    deletion_grace: float = 600.0
    """A deleted object waits this long for its cancel to be confirmed, then goes with a Warning Event."""

    details_after: float = 60.0
    """A run younger than this is not asked for its steps: most end sooner than anybody looks."""

    details_interval: float = 300.0
    """Pause between two looks at the steps of a running run."""

    turn_seconds: float = 5.0
    """A turn to look at the steps of a run is lost after this: those of an outage would all be taken at its end."""

    watched_interval: float = 5.0
    """The same while somebody reads the steps as they come."""

    details_tries: int = 2
    """How often the failed nodes, or the artifacts, of an ended run are asked for before its end is written without
    them."""

    news_grace: float = 30.0
    """While other runs wait to be started, the status may say this much later that a run has begun."""

    artifacts_pause: float = 5.0
    """Pause between two tries: dbt Cloud may still be uploading the artifacts when it reports the end."""

    resync: float = 600.0
    """Every object that is not final is looked at again after this long at the latest, whatever was missed."""

    def lookup_pause(self, tries: int) -> float:
        """The pause before the next look-up of an undecided start, after so many."""
        return backoff(tries, self.lookup_backoff, LONGEST_LOOKUP_PAUSE)
