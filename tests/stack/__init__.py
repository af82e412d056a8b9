"""The whole system for tests and the demo: control plane, simulator and watcher, each a process of its own."""

from tests.stack.dbt import JOBS, DbtCloud
from tests.stack.own import Own
from tests.stack.program import Program, ProgramError
from tests.stack.site import Site, dbt_run, install_crd
from tests.stack.stack import Stack
from tests.stack.waiting import until

__all__ = ["JOBS", "DbtCloud", "Own", "Program", "ProgramError", "Site", "Stack", "dbt_run", "install_crd", "until"]
