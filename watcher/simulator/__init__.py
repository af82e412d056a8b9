"""A dbt Cloud Administrative API that runs on a laptop: for tests, for the demo, for people who try their DAGs."""
