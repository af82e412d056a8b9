"""What can go wrong, each with a sentence for the person who reads the terminal."""

from __future__ import annotations


class ControlPlaneError(Exception):
    """The control plane could not be started or used."""


class BuildError(ControlPlaneError):
    """A binary could not be built."""


class CommandError(ControlPlaneError):
    """kubectl or helm ended with a failure."""


class PortTakenError(ControlPlaneError):
    """Another process took a port between our look and our bind: choose again."""
