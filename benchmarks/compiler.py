"""What a worker gains that replaces its JVM by one with the optimizing compiler, once its events are long.

The query of ``benchmarks.size`` over one CSV, and appends to a table of Hudi, so many times in one new environment.
*plain*: a worker that never replaces its JVM. ``first``, ``last``: medians of the first and last three further events.

    python -m benchmarks.compiler [--sizes-mb 16 64 128 400] [--events 20] [--rounds 5]
"""

import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.comparison import options
from benchmarks.function import Function, function
from benchmarks.size import SizedJob
from benchmarks.workload import Job
from benchmarks.workload import jobs as every_job

PLAIN = {"SPARKLET_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1"}  # a choice of its operator's


def main() -> None:
    """Measure, print."""
    parser = options(__doc__)
    parser.add_argument("--sizes-mb", type=int, nargs="*", default=[16, 64, 128, 400])
    parser.add_argument("--appends", nargs="*", default=["hudi_append"], help="jobs of benchmarks.workload, too")
    parser.add_argument("--events", type=int, default=20)
    given = parser.parse_args()
    figures: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="sparklet-bench-") as name:
        sized: list[Job] = [SizedJob.of(Path(name), "csv", size) for size in given.sizes_mb]
        jobs = sized + [job for job in every_job(Path(name) / "appends") if job.name in given.appends]
        with function(Path(name), jobs) as worker:
            sides = {"by need": worker, "plain": replace(worker, env={**worker.env, **PLAIN})}
            for turn in range(given.rounds):
                for job in jobs:
                    for side in sorted(sides, reverse=bool(turn % 2)):
                        job.renew()
                        found = events(sides[side], job, given.events)
                        figures.setdefault(f"{job.name}, {side}", []).append(found)
                        print(turn, job.name, side, found, flush=True)
    summary = {
        case: {
            figure: [round(f(values), 2) for f in (statistics.median, min, max)]
            for figure in found[0]
            if (values := [each[figure] for each in found])
        }
        for case, found in figures.items()
    }
    print(json.dumps(summary, indent=1))


def events(worker: Function, job: Job, count: int) -> dict[str, float]:
    """So many events in a new environment."""
    with worker.environment() as environment:
        runs = [environment.run(job) for _ in range(count)]
        cpu_s = environment.cpu_s()
    first, last = runs[1:4], runs[-3:]
    return {
        "all_s": round(sum(run.wall_s for run in runs), 2),
        "all_cpu_s": round(cpu_s, 2),
        "first_s": statistics.median(run.wall_s for run in first),
        "last_s": statistics.median(run.wall_s for run in last),
        "last_cpu_s": statistics.median(run.cpu_s for run in last),
        "memory_mb": max(run.peak_memory_mb for run in runs),
    }


if __name__ == "__main__":
    main()
