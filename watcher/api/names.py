"""Names of the DbtRun API that others rely on: changing one breaks stored objects or other people's manifests."""

from typing import Final

GROUP: Final = "dbtrun.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "DbtRun"
PLURAL: Final = "dbtruns"

FINALIZER: Final = f"{GROUP}/run"
"""Keeps an object until its dbt Cloud run is known to be over, cancelled or let go."""

CONNECTION_SECRET_TYPE: Final = f"{GROUP}/connection"
"""Only Secrets of this type are ever read as connections, so that no other Secret can be used as one."""

MARKER_PREFIX: Final = "dbtrun:"
"""Opens the marker in a run's cause: the one thing dbt Cloud echoes, and so the one way to recognise our run."""
