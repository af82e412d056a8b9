"""What Airflow's provider manager asks of an installed provider."""

from __future__ import annotations

from typing import Any, Final

OPERATORS: Final = ("operator", "listing", "artifacts", "model_assets")


def get_provider_info() -> dict[str, Any]:
    """The provider's entry point, in the group `apache_airflow_provider`."""
    name = "DbtRun"
    return {
        # Must be the distribution's name: the provider manager refuses another.
        "package-name": "dbtrun",
        "name": name,
        "description": "Runs dbt Cloud jobs as Kubernetes objects and waits for them without polling.",
        "integrations": [
            {
                "integration-name": name,
                "external-doc-url": "https://docs.getdbt.com/docs/deploy/jobs",
                "tags": ["service"],
            }
        ],
        "operators": [
            {
                "integration-name": name,
                "python-modules": [f"airflow_trigger.{module}" for module in OPERATORS],
            }
        ],
        "sensors": [
            {
                "integration-name": name,
                "python-modules": ["airflow_trigger.sensor", "airflow_trigger.event_sensor"],
            }
        ],
        "triggers": [
            {
                "integration-name": name,
                "python-modules": ["airflow_trigger.trigger", "airflow_trigger.event_trigger"],
            }
        ],
        # Airflow 2 shows only links that are listed here.
        "extra-links": ["airflow_trigger.link.DbtRunLink"],
    }
