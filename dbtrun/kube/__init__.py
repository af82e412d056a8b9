"""The one way to the Kubernetes API for the watcher, Airflow's side and the command line.

What is imported where a connection may never be made (a DAG file is parsed again and again) loads no Kubernetes client:
only `cluster` and `credentials` do, and `connect` imports them when a connection is made.
"""
