"""DbtRun: what the watcher and the Airflow trigger share."""
