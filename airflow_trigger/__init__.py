"""Airflow waits on DbtRun objects here: one watch for all tasks of a triggerer, no dbt Cloud token."""
