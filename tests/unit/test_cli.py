"""The command line as a container's first process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

STARTING = "print('starting', flush=True); import time; time.sleep(60)"


def test_sigterm_ends_a_watcher_that_is_still_starting(tmp_path: Path) -> None:
    """Process 1 of a container ignores what it does not handle, as a process does that begins with SIGTERM ignored."""
    (tmp_path / "prometheus_client.py").write_text(STARTING)
    watcher = subprocess.Popen(
        [sys.executable, "-m", "dbtrun", "watcher"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])},
        stdout=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    )
    with watcher:
        try:
            assert watcher.stdout is not None
            assert watcher.stdout.readline() == b"starting\n"
            watcher.terminate()
            assert watcher.wait(30) == 0
        finally:
            watcher.kill()
