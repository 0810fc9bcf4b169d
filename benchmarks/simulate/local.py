"""The simulator against ourselves: real runs of the local stack, predicted from the shards of the smallest.

    python -m benchmarks.simulate.local [--shards 12 36 72] [--workers 2]

Each run has a stack of its own, so that its workers start cold. Measured: from the first claim to the last end. The
other runs are predicted from the seconds, the cold starts and the gaps of the first one alone.
"""

import argparse
import shutil
import tempfile
from pathlib import Path
from statistics import median

from benchmarks.facts import ROOT
from benchmarks.simulate.measured import Attempt, Measured
from benchmarks.simulate.setup import Scaling, by_queue
from benchmarks.simulate.simulation import simulate
from spark_scripts.demo.flights_data import make_flights
from sparklet.client import Stack
from sparklet.model import ShardState

SEEDS = 50


def main() -> None:
    """Run, predict and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, nargs="+", default=[12, 36, 72])
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    first = _run(options.shards[0], options.workers)
    for shards in options.shards:
        found = _run(shards, options.workers) if shards != options.shards[0] else first
        expected_s = predicted_s(first, shards, options.workers)
        print(
            f"shards={shards} workers={options.workers} predicted_s={expected_s:.1f} measured_s={found.lasted_s:.1f} "
            f"error={expected_s / found.lasted_s - 1:+.1%}" + " (the run it is predicted from)" * (found is first),
            flush=True,
        )


def predicted_s(measured: Measured, shards: int, workers: int) -> float:
    """From the first claim to the last end: the median of many seeds."""
    setup = by_queue(
        shards,
        measured.seconds,
        workers,
        sent_a_s=1_000.0,
        scaling=Scaling(workers, 0.0, workers),
        capacity=workers,
        cold_start_s=measured.cold_start_s,
        turnaround_s=measured.gap_s,
    )
    return median(simulate(setup, seed).end_s for seed in range(SEEDS))


def _run(shards: int, workers: int) -> Measured:
    data = make_flights(ROOT / "build" / "demo" / "data")
    with (
        tempfile.TemporaryDirectory(prefix="sparklet-bench-", ignore_cleanup_errors=True) as name,
        Stack(state_dir=Path(name) / "state", quiet=True, workers=workers) as stack,
    ):
        days = Path(name) / "days"
        days.mkdir()
        for path in data.days[:: len(data.days) // shards][:shards]:
            shutil.copy(path, days)
        run = stack.run(
            ROOT / "spark_scripts" / "flights_daily.py",
            days,
            Path(name) / "out",
            max_objects=1,
            files={"airlines": data.airlines, "planes": data.planes},
        )
        run.result()
        done = list(stack.opened.at.ledger.shards.list(run.run_id, ShardState.SUCCEEDED))
    return Measured.of(Attempt(each.log_stream, each.started_s, each.took_s) for each in done)


if __name__ == "__main__":
    main()
