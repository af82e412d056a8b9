"""Waiting for a DbtRun: the watch that all triggers share, what a trigger makes of what it sees, and its event."""
