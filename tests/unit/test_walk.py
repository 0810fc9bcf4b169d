"""How much code one event and one command pass through stays small."""

import subprocess
import sys


def test_an_event_and_a_run_pass_few_modules_and_functions() -> None:
    command = [sys.executable, "-m", "benchmarks.walk"]

    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)

    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("walk=")]
    walks = {name: (modules, functions) for name, modules, functions in lines}
    counts = {name: [int(word.partition("=")[2]) for word in words] for name, words in walks.items()}
    assert counts.keys() == {"walk=event", "walk=run"}
    assert counts["walk=event"][0] <= 12 and counts["walk=event"][1] <= 51
    assert counts["walk=run"][0] <= 21 and counts["walk=run"][1] <= 95  # 20 and 90 before outputs were claimed (0048)
