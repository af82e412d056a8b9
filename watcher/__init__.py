"""The watcher: an operator that represents dbt Cloud job runs as Kubernetes objects."""
