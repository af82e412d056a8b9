"""A file that a user may have beside the DAGs: nothing here imports it instead of, or as, a part of DbtRun."""
