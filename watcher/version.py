"""The release that runs, for the metrics and for dbt Cloud."""

import importlib.metadata
from functools import cache


@cache
def version() -> str:
    """As the installed distribution says; 0 in a checkout that was never installed."""
    try:
        return importlib.metadata.version("dbtrun")
    except importlib.metadata.PackageNotFoundError:
        return "0"
