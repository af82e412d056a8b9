"""One line per thing that happened, as JSON for machines or as text for people."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec

# A record gets the first two when it is formatted, and `taskName` exists from Python 3.12 on.
STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
QUIET: Final = {
    "httpx": logging.WARNING,
    "httpcore": logging.WARNING,
    "kopf": logging.CRITICAL,  # its failures come out as our own sentences
    "kubernetes_asyncio": logging.INFO,  # at DEBUG it writes whole bodies, Secrets among them
    "uvicorn": logging.WARNING,
    "asyncio": logging.WARNING,
}
"""Loggers that say something about every request or event."""

LogFormat = Literal["json", "text"]


class JsonFormatter(logging.Formatter):
    """A record with its extras as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """One JSON line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **_extras(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # An extra may be of any type. A record that cannot be encoded would be lost.
        return msgspec.json.encode(line, enc_hook=str).decode()


class TextFormatter(logging.Formatter):
    """A record with its extras behind it, as `key=value`."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's own name
        """The message, with its extra fields behind it."""
        extras = " ".join(f"{key}={value}" for key, value in _extras(record).items())
        return f"{super().formatMessage(record)}  {extras}".rstrip()


def configure(level: str, log_format: LogFormat) -> None:
    """Sends all logs to standard error, and quiets the libraries that report each request."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for name, quiet in QUIET.items():
        logging.getLogger(name).setLevel(quiet)


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in STANDARD and value is not None}
