"""Values that a template or a connection may have turned into another type. Pure.

Templates render to text. With `render_template_as_native_obj` text that reads as a Python literal becomes one, so
`"2024"` arrives as a number, and an Airflow connection written as a URI holds nothing but text. Each function here
takes what can only mean one thing, and refuses everything else in a sentence that names the argument.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

from airflow_trigger.failures import InvalidArgument
from dbtrun.text import cut, natural

MAX_NUMBER: Final = 2**63 - 1
"""The API keeps numbers in 64 bits."""
_SHOWN: Final = 120
_TRUE: Final = frozenset({"true", "t", "yes", "y", "on", "1"})
_FALSE: Final = frozenset({"false", "f", "no", "n", "off", "0", "none", ""})


def shown(value: object) -> str:
    """`value` for a sentence, of bounded length."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - whatever the value's own code does
        text = f"<{type(value).__name__}>"
    return cut(text, _SHOWN)


def text(argument: str, value: object) -> str | None:
    """Text; a whole number stands for its digits. None and empty text mean that nothing was given.

    Raises:
        InvalidArgument: it is something else. A float or a bool no longer shows how it was written.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return str(value)
        except ValueError:  # more than 4300 digits: sys.set_int_max_str_digits
            raise InvalidArgument(f"{argument} is too large a number") from None
    hint = ""
    if isinstance(value, bool | float):
        hint = "; with render_template_as_native_obj, quote it in the template: \"'{{ … }}'\""
    raise InvalidArgument(f"{argument} must be text, not {shown(value)}{hint}")


def number(argument: str, value: object) -> int | None:
    """A positive whole number, also one that is written as text. None and empty text mean that nothing was given.

    Raises:
        InvalidArgument: it is something else.
    """
    if value is None or value == "":
        return None
    found: int | None = None
    if isinstance(value, str):
        found = natural(value.strip())
    elif isinstance(value, int) and not isinstance(value, bool):
        found = value
    elif isinstance(value, float) and value.is_integer():
        found = int(value)
    if found is None or not 0 < found <= MAX_NUMBER:
        raise InvalidArgument(f"{argument} must be a number of at least 1, not {shown(value)}")
    return found


def boolean(argument: str, value: object) -> bool | None:
    """True or False, also written as text, as connections have it. None means that nothing was given.

    Raises:
        InvalidArgument: it is something else.
    """
    if value is None or isinstance(value, bool):
        return value
    word = str(value).strip().lower() if isinstance(value, str | int) else None
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise InvalidArgument(f"{argument} must be true or false, not {shown(value)}")


def real(argument: str, value: object) -> float | None:
    """A finite number, not negative, also one that is written as text. None means that nothing was given.

    Raises:
        InvalidArgument: it is something else.
    """
    if value is None or value == "":
        return None
    found = math.nan
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            found = float(value)
        except (ValueError, OverflowError):
            found = math.nan
    if not 0 <= found < math.inf:
        raise InvalidArgument(f"{argument} must be a number that is not negative, not {shown(value)}")
    return found


def seconds(argument: str, value: object) -> float | None:
    """A duration, as a number of seconds or as a timedelta, in seconds. None means that there is no limit.

    Raises:
        InvalidArgument: it is neither, or negative.
    """
    given = value.total_seconds() if isinstance(value, timedelta) else value
    try:
        return real(argument, given)
    except InvalidArgument:
        raise InvalidArgument(
            f"{argument} must be seconds or a timedelta, and not negative; it is {shown(value)}"
        ) from None


def texts(argument: str, value: object, of: str) -> tuple[str, ...]:
    """A list of texts. `of` says in the sentence what they are.

    Raises:
        InvalidArgument: it is no list, or one of them is no text.
    """
    if value is None or value == "":
        return ()
    # A text is a sequence, too: "dbt build" would be nine commands.
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise InvalidArgument(f"{argument} must be a list of {of}, not {shown(value)}")
    found = [text(f"{argument}[{place}]", each) for place, each in enumerate(value)]
    missing = next((place for place, each in enumerate(found) if each is None), None)
    if missing is not None:
        raise InvalidArgument(f"{argument}[{missing}] must be text, not {shown(value[missing])}")
    return tuple(each for each in found if each is not None)


def mapping(argument: str, value: object) -> dict[str, object]:
    """A mapping; None and empty text mean an empty one.

    Raises:
        InvalidArgument: it is something else, or a key is no text.
    """
    if value is None or value == "":
        return {}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise InvalidArgument(f"{argument} must be a mapping with text as its keys, not {shown(value)}")
    return dict(value)


NO_CALLS: Final = "nothing here calls dbt Cloud"
WITHOUT_EFFECT: Final = {
    "hook_params": f"{NO_CALLS}. The watcher retries and limits its requests; its time-outs are settings of the chart.",
    "openlineage_inject_parent_job_info": "the run's cause contains the watcher's marker. Read the DbtRun's labels "
    "airflow.dbtrun.dev/dag-id, run-id and task-id instead.",
    "durable": "every try looks for the run of the previous try. If the task is cleared, a new run starts.",
    "dbt_cloud_conn_id": f"{NO_CALLS}: the DbtRuns of the namespace are read.",
    "account_id": f"{NO_CALLS}: the DbtRuns of the namespace are read.",
    "order_by": "the list is always newest first.",
    "include_related": "a row has what the status of the DbtRun has.",
    "step": "a file is kept as the last step of the run left it.",
}
"""Arguments of the provider that have no place here, each with what takes it."""


def warn_without_effect(**given: object) -> None:
    """A warning for each argument that was given and has no place here."""
    for argument, value in given.items():
        if value:
            warnings.warn(f"{argument} has no effect: {WITHOUT_EFFECT[argument]}", FutureWarning, stacklevel=3)
