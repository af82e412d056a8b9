"""The button in Airflow's task view."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.providers.common.compat.sdk import BaseOperatorLink, XCom

from airflow_trigger.shared.objects import safe_link

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, TaskInstanceKey


class DbtRunLink(BaseOperatorLink):
    """Opens the run in dbt Cloud."""

    name = "Monitor Job Run"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Returns the URL from the task's XCom, because Airflow 2 calls this in the web server."""
        # Anybody who runs a task can write an XCom.
        return safe_link(XCom.get_value(key="job_run_url", ti_key=ti_key)) or ""
