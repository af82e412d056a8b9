"""Kubernetes: requests, watches, and which of several watchers may act."""
