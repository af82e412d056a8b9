"""Webhooks of dbt Cloud. They say where to look, and nothing that they say is believed."""
