"""How much code each walk passes through stays small."""

import subprocess
import sys

import pytest

from tests.waiting import deadline_s


@pytest.mark.slow
def test_each_walk_passes_few_modules_and_functions() -> None:
    command = [sys.executable, "-m", "benchmarks.walk"]

    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=deadline_s(40))

    assert not done.stderr and "interrupted" not in done.stdout  # a walk ends early, which is no alarm
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("walk=")]
    counts = {name: [int(word.partition("=")[2]) for word in words] for name, *words in lines}
    assert counts.keys() == {"walk=event", "walk=engine", "walk=run", "walk=commit"}
    assert counts["walk=event"][0] <= 18 and counts["walk=event"][1] <= 68
    assert counts["walk=engine"][0] <= 8 and counts["walk=engine"][2] <= 3  # beyond what an event passes
    assert counts["walk=run"][0] <= 23 and counts["walk=run"][1] <= 111  # one asks whether --help-all was given
    assert counts["walk=commit"][0] <= 9 and counts["walk=commit"][2] <= 3
