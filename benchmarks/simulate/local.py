"""The simulator against ourselves: real runs of the local stack, predicted from the shards of the smallest.

    python -m benchmarks.simulate.local [--shards 12 36 72] [--workers 2] [--failing 0.1]

Each run has a stack of its own, so that its workers start cold. A shard's script waits for 1 to 4 s, so that other work
of the machine matters little, and that of some shards fails at its first attempt. Measured: from the first claim to the
last end. All runs are predicted from the seconds, the cold starts and the gaps of the first one, which has no failures.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks.simulate.measured import Attempt, Measured
from benchmarks.simulate.setup import Scaling, by_queue
from benchmarks.simulate.simulation import simulate
from sparklet.client import Stack
from sparklet.model import ShardState

SEEDS = 50
SCRIPT = """
import pathlib, sys, time
from sparklet.job import Job
shard = Job.from_args().shard
time.sleep(1 + shard % 4)
first = pathlib.Path({folder!r}) / str(shard)
if shard % {every} == 0 and not first.exists():
    first.touch()
    sys.exit("the first attempt fails")
"""


def main() -> None:
    """Run, predict and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[12, 36, 72])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--failing", type=float, default=0.1, help="of the shards of another run, of the last size")
    options = parser.parse_args()
    first: Measured | None = None
    for shards, failing in [*((each, 0.0) for each in options.shards), (options.shards[-1], options.failing)]:
        found = _run(shards, options.workers, failing)
        first = first or found
        expected_s = predicted_s(first, shards, options.workers, failing)
        print(
            f"shards={shards} workers={options.workers} failing={failing:g} predicted_s={expected_s:.1f} "
            f"measured_s={found.lasted_s:.1f} error={expected_s / found.lasted_s - 1:+.1%}",
            flush=True,
        )


def predicted_s(measured: Measured, shards: int, workers: int, failing: float = 0.0) -> float:
    """From the first claim to the last end: the median of many seeds; ``failing``: shards that fail once."""
    setup = by_queue(shards, measured.seconds, workers)
    setup = replace(setup, sent_a_s=1_000.0, scaling=Scaling(workers, 0.0, workers), capacity=workers)
    setup = replace(setup, cold_start_s=measured.cold_start_s, turnaround_s=measured.gap_s)
    return median(simulate(replace(setup, failed=failing / (1 + failing)), seed).end_s for seed in range(SEEDS))


def _run(shards: int, workers: int, failing: float) -> Measured:
    with tempfile.TemporaryDirectory(prefix="sparklet-bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for each in ("inputs", "failed", "state"):
            (folder / each).mkdir()
        for number in range(shards):
            (folder / "inputs" / f"{number:04}.txt").write_text("a line\n")
        every = round(1 / failing) if failing else shards + 1
        script = folder / "waits.py"
        script.write_text(SCRIPT.format(folder=str(folder / "failed"), every=every))
        if not failing:
            (folder / "failed" / "0").touch()  # 0 is a multiple of any number
        with Stack(state_dir=folder / "state", quiet=True, workers=workers) as stack:
            run = stack.run(script, folder / "inputs", folder / "output", max_objects=1)
            run.result()
            done = list(stack.opened.deployment.ledger.shards.list(run.run_id, ShardState.SUCCEEDED))
    return Measured.of(Attempt(each.log_stream, each.started_s, each.took_s) for each in done)


if __name__ == "__main__":
    main()
