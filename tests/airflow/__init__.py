"""Airflow for real: both generations, each with its own processes and metadata database, and the whole system."""
