"""Runs and scripts from a Python program, with real workers and real Spark."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.conftest import COPY_ROWS, RUN_S, SCRIPTS, User, every_row, rows_of
from tests.waiting import deadline_s, eventually

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.nightly, pytest.mark.spark, pytest.mark.stack, pytest.mark.slow]


def test_a_program_does_what_the_command_line_does(user: User) -> None:
    repaired = user.home / "repaired.py"
    repaired.write_text(COPY_ROWS.read_text().replace("raise ValueError", "print"))
    arguments = [str(user.inputs(3)), str(user.home / "out"), str(COPY_ROWS), str(repaired)]

    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "from_python.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=deadline_s(RUN_S),
        cwd=user.home,
        # The path is for the import of the examples.
        env={**os.environ, "SPARKLET_STATE_DIR": str(user.state), "PYTHONPATH": str(ROOT)},
    )

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    # THEN the examples have done what can be done, and printed what failed
    bad, good = found["thumbnails"]
    assert "images/broken.ppm: failed" in bad and good.endswith("small/grey.ppm.png")
    assert found["png"] == b"\x89PNG\r\n\x1a\n".hex()
    assert found["partitions"][:2] == ["day=1/ done", "day=2/ done"] and "day=3/ failed" in found["partitions"][2]
    assert found["written"] == ["day=1", "day=2"]
    # AND a failed run was explained and redriven
    assert found["started"] == 3
    assert (found["failed"]["succeeded"], found["failed"]["failed"]) == (2, 1)
    assert found["cause"] == [1, str(user.home / "in" / "001.csv")]
    assert found["redriven"]["succeeded"] == 3
    assert rows_of(user.home / "out") == every_row(3)
    # AND no process is left, and the command line knows the run
    eventually(lambda: not user.processes(), "no process, no JVM is left")
    assert user.types("status", found["run_id"], "--json").document["state"] == "SUCCEEDED"
