"""A connection to dbt Cloud, as a Secret describes it: the watcher uses it, and the command line checks it."""
