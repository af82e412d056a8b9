"""A file that the watcher makes: what each step of a run built. dbt Cloud's own run_results.json is one step's only.

It has no tests and no messages: of a project with thousands of models it fits into the room for a run's files, in which
the run_results.json of one step may not.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from dbtrun.api.status import KINDS
from watcher.dbtcloud import wire
from watcher.dbtcloud.errors import TooLarge
from watcher.dbtcloud.merge import NO_RUN


class Builds:
    """The last result of each node. Steps are added from the last to the first: what was added first counts.

    Args:
        limit: the bytes that the file may have.
    """

    def __init__(self, limit: int) -> None:
        self._room = limit - len(_file(()))
        self._results: dict[str, bytes] = {}

    def add(self, report: wire.BuildReport, step: int | None) -> None:
        """Takes what is new in a step's report.

        Raises:
            TooLarge: the file would have more bytes than it may.
        """
        # `dbt compile` writes a run_results.json too. It says `success` of nodes that were not built.
        if report.args is not None and report.args.which in NO_RUN:
            return
        for node in report.results:
            if node.unique_id and node.unique_id.startswith(KINDS) and node.unique_id not in self._results:
                result = msgspec.json.encode(
                    {
                        "unique_id": node.unique_id,
                        "status": node.status,
                        "step": step,
                        "relation_name": node.relation_name,
                        "adapter_response": {"rows_affected": node.rows_affected},
                    }
                )
                self._room -= len(result) + len(SEPARATOR)
                if self._room < 0:
                    raise TooLarge("The results of all steps need more bytes than are left for the run's files.")
                self._results[node.unique_id] = result

    def file(self) -> bytes:
        """The file: of the format of run_results.json, with fewer fields, and with the index of the step."""
        return _file(self._results.values())


SEPARATOR: Final = b",\n"


def _file(results: Iterable[bytes]) -> bytes:
    return b'{"results":[\n' + SEPARATOR.join(results) + b"\n]}\n"
