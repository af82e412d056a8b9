"""The watcher: an operator that makes dbt Cloud job runs Kubernetes objects."""
