"""How a task ends badly: the exceptions of all operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, AirflowSensorTimeout

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class DbtRunException(AirflowException):
    """A dbt Cloud run did not succeed, or its result is not known. Base class of the exceptions below.

    The attributes are for callbacks: `context["exception"].failures` has the failed models. Their values are JSON
    primitives.
    """

    run_id: int | None = None
    """The dbt Cloud run, if one is known."""
    url: str | None = None
    """Its address."""
    reason: str = ""
    """As in the status of the DbtRun, or one of the trigger's own."""
    failures: Sequence[Mapping[str, str]] = ()
    """The first failed nodes: `unique_id`, `status` and `message`."""
    log_tail: str = ""
    """The end of the failed step's log."""


class DbtRunFailed(DbtRunException):
    """dbt Cloud says that the run failed."""


class DbtRunCancelled(DbtRunException):
    """The run was cancelled, by the watcher or in dbt Cloud, or its DbtRun was deleted."""


class DbtRunTimedOut(DbtRunException):
    """A deadline passed. The message contains 'timeout' and says whether the run may continue."""


class DbtRunLostContact(DbtRunException):
    """It is not known how the run ended, or whether it did. The next try looks for the run again and follows it."""


class DbtRunRefused(DbtRunException, AirflowFailException):
    """A retry cannot help: a person must change a setting, a permission or an argument."""


class InvalidArgument(DbtRunRefused, ValueError):
    """An argument cannot be used."""


class DbtRunEventException(DbtRunException):
    """A deferred task resumed without an event that it understands."""


class DbtRunSensorTimeout(DbtRunTimedOut, AirflowSensorTimeout):
    """The sensor's `timeout` passed."""
