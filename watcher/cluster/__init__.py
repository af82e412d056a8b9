"""Kubernetes: what is asked of it, what it tells, and who of several watchers may act."""
