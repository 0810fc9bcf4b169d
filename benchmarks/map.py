"""What does a call of a Python function in another process cost? About ten minutes.

``LambdaExecutor("processes")``, whose calls travel as those to Lambda do (signed, answered, perhaps tried again),
beside ``ProcessPoolExecutor``, Lithops on its localhost backend, version 1, which is its faster one, and the same calls
to functions deployed in the local stack, where the stand-in's Lambda takes most of the time. Each turn is a
process of its own, each side begins as often as the others, the workers are warm. The overhead of a call is the time of
a map, less what its calls sleep on so many workers, divided by the calls. The last line on standard error:
``overhead_vs_lithops=…``, ours by that of Lithops, for calls that do nothing.

    python -m benchmarks.map [--rounds 5] [--calls 1000] [--naps 100]
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.comparison import SPARKLET, Case, Run, document, options, publish, say
from benchmarks.facts import ROOT
from benchmarks.jobs.map_calls import NAP_S

LITHOPS, POOL, STAND_IN = "lithops", "process_pool", "stand_in"
PYTHONS = {
    SPARKLET: sys.executable,
    STAND_IN: sys.executable,
    POOL: sys.executable,
    LITHOPS: str(ROOT / ".venv-bench" / "bin" / "python"),
}
SCRIPT = ROOT / "benchmarks" / "jobs" / "map_calls.py"
QUESTION = "What does a call of a Python function in another process cost?"
WORKERS = 2
LIMIT_S = 900.0  # of one turn


def main() -> None:
    """Measure and print."""
    parser = options(__doc__)
    parser.add_argument("--calls", type=int, default=1000, help="that do nothing")
    parser.add_argument("--naps", type=int, default=100, help=f"calls of {NAP_S} s")
    parser.add_argument("--lithops-python", default=PYTHONS[LITHOPS], help="an interpreter that has Lithops")
    given = parser.parse_args()
    pythons = {**PYTHONS, LITHOPS: given.lithops_python}
    calls = {"no_op": given.calls, "nap": given.naps}
    names = {"no_op": f"{given.calls:,} calls that do nothing", "nap": f"{given.naps} calls of {NAP_S} s"}
    cases = {each: Case(name, [LITHOPS, POOL, STAND_IN]) for each, name in names.items()}
    for number in range(given.rounds):
        for side in _turned(list(pythons), number):
            for each, run in _turn(side, pythons[side], calls).items():
                cases[each].add(side, run)
    overheads = {each: overheads_ms(cases[each], calls[each], NAP_S * (each == "nap")) for each in cases}
    told = {f"overhead a call, ms: {names[each]}": found for each, found in overheads.items()}
    versions = _versions(pythons[LITHOPS])
    publish(document("map", QUESTION, {"workers": WORKERS, "versions": versions, **told}, list(cases.values())))
    say(f"overhead_vs_lithops={overheads['no_op'][SPARKLET] / overheads['no_op'][LITHOPS]:.3f}")


def overheads_ms(case: Case, calls: int, work_s: float) -> dict[str, float]:
    """Of one call on each side: the median map's time, less that of the work on ``WORKERS``, divided by the calls."""
    medians = {side: statistics.median(run.wall_s for run in runs) for side, runs in case.runs.items()}
    return {side: round((wall_s - calls * work_s / WORKERS) / calls * 1000, 3) for side, wall_s in medians.items()}


def _turned(sides: Sequence[str], number: int) -> Sequence[str]:
    """Another side begins each time."""
    first = number % len(sides)
    return [*sides[first:], *sides[:first]]


def _turn(side: str, python: str, calls: Mapping[str, int]) -> dict[str, Run]:
    """A side's maps in a process of its own, whose temporary files are deleted."""
    with tempfile.TemporaryDirectory(prefix="sparklet-bench-", ignore_cleanup_errors=True) as folder:
        paths = os.pathsep.join([str(ROOT), str(ROOT / "runtime")])
        env = {**os.environ, "PYTHONPATH": paths, "TMPDIR": folder, "HOME": folder}
        command = [python, str(SCRIPT), side, str(WORKERS), *(f"{case}={count}" for case, count in calls.items())]
        done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True, timeout=LIMIT_S)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])  # Lithops may print before
    return {case: Run(**took, peak_memory_mb=0) for case, took in found.items()}


def _versions(python: str) -> dict[str, str]:
    """Of Lithops, in its environment, and of the Python there."""
    code = "import platform, importlib.metadata as found; print(found.version('lithops'), platform.python_version())"
    told = subprocess.run([python, "-c", code], check=True, stdout=subprocess.PIPE, text=True).stdout.split()
    return dict(zip((LITHOPS, f"{LITHOPS} on Python"), told, strict=True))


if __name__ == "__main__":
    main()
