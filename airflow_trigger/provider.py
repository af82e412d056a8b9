"""What Airflow's provider manager asks of an installed provider."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """The provider's entry point, in the group `apache_airflow_provider`."""
    name = "DbtRun"
    return {
        # Must be the distribution's name: the provider manager refuses another.
        "package-name": "dbtrun",
        "name": name,
        "description": "Waits for dbt Cloud runs that are Kubernetes objects, without polling.",
        "integrations": [
            {
                "integration-name": name,
                "external-doc-url": "https://docs.getdbt.com/docs/deploy/jobs",
                "tags": ["service"],
            }
        ],
        "triggers": [{"integration-name": name, "python-modules": ["airflow_trigger.trigger"]}],
    }
