"""Names of the DbtRun API that others rely on: changing one breaks stored objects or other people's manifests."""

from typing import Final

GROUP: Final = "dbtrun.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
KIND: Final = "DbtRun"
PLURAL: Final = "dbtruns"

FINALIZER: Final = f"{GROUP}/run"
"""Keeps an object until its dbt Cloud run is known to be over, cancelled or let go."""

UID_ANNOTATION: Final = f"{GROUP}/uid"
"""The uid under which an object was first taken on: with another one, it is a copy."""
START_COPY_ANNOTATION: Final = f"{GROUP}/start-copy"
"""Lets a copy start its run: its value is the copy's own uid, so that a copy of the copy is not meant."""
TRACEPARENT_ANNOTATION: Final = f"{GROUP}/traceparent"
"""The trace of the client that created the object (W3C Trace Context); the traces of its attempts are linked to it."""
WATCHED_ANNOTATION: Final = f"{GROUP}/watched-until"
"""Until this time somebody reads the run's steps as they come: see `dbtrun.api.watched`."""
RESTORED_LABEL: Final = "velero.io/restore-name"
"""What Velero puts on each object that it restores."""

MIRROR_LABEL: Final = f"{GROUP}/mirror"
"""The name of the DbtRunMirror that has created a DbtRun."""

CONNECTION_SECRET_TYPE: Final = f"{GROUP}/connection"
"""Only Secrets of this type are ever read as connections, so that no other Secret can be used as one."""

MARKER_PREFIX: Final = "dbtrun:"
"""Opens the marker in a run's cause: the one thing dbt Cloud echoes, and so the one way to recognise our run."""
