"""How much of a warm event is Sparklet's, beside what Spark alone needs in a JVM that is warm?

Five rounds, each with an environment of its own: events of a worker that has done some; events whose script notes how
long it took (``in_script``: a new session with its query; the rest of such an event, from the request to the answer, is
Sparklet's own share); one event that does the job again and again in one session (``spark_alone``: its later passes);
and one plain spark-submit. The last line on standard error has the median of the five ratios.

    python -m benchmarks.warm_share [--job csv_to_parquet] [--rounds 5]
"""

import json
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.comparison import SPARKLET, Case, Run, document, options, publish, say
from benchmarks.function import MEMORY_MB, Environment, function
from benchmarks.process_tree import end_on_sigterm
from benchmarks.rivals import parameters, plain
from benchmarks.starts import warm_runs
from benchmarks.workload import JOBS, ROWS, Job, jobs

QUESTION = "How much of a warm event is Sparklet's, beside what Spark alone needs in a JVM that is warm?"
PLAIN, IN_SCRIPT, SPARK_ALONE = "plain", "in_script", "spark_alone"
EVENTS = 10  # of a kind and run
WARM_UPS = 5
PASSES, FIRST_PASSES = 20, 5  # the first ones are not counted
WARM_S = 10.0


@dataclass
class Repeated(Job):
    """A job's script, some times in one session."""

    of: Path = Path()
    passes: int = 1

    @property
    def script(self) -> Path:
        """The one that runs the other."""
        return JOBS / "repeated.py"

    @property
    def times(self) -> Path:
        """Where it notes how long each pass took."""
        return self.folder / "times.json"

    def event(self, side: str) -> dict[str, Any]:
        """The job's own, and what is to be repeated."""
        return {**super().event(side), "script": str(self.of), "passes": self.passes, "times": str(self.times)}

    def run(self, environment: Environment, passes: int) -> tuple[Run, list[float]]:
        """One event; how long each pass took."""
        self.passes = passes
        run = environment.run(self)
        return run, [float(each) for each in json.loads(self.times.read_text())]


def main() -> None:
    """Measure and print."""
    parser = options(__doc__)
    parser.add_argument("--job", default="csv_to_parquet", choices=("hello", "csv_to_parquet"))
    given = parser.parse_args()
    end_on_sigterm()
    shares, ratios = list[float](), list[float]()
    case = Case(f"warm, {given.job}", [PLAIN, IN_SCRIPT, SPARK_ALONE])
    with tempfile.TemporaryDirectory(prefix="sparklet-bench-") as name:
        folder = Path(name)
        [job] = [each for each in jobs(folder / "data") if each.name == given.job]
        repeated = Repeated(f"{job.name}_repeated", job.folder, job.check, shares_output=False, of=job.script)
        with function(folder, [job, repeated]) as worker:
            rival = plain(worker.env, folder)
            rival.run(job)
            for _ in range(given.rounds):
                with worker.environment() as environment:
                    for _ in range(WARM_UPS):
                        environment.run(job)
                    events = warm_runs(environment, job, EVENTS, WARM_S)
                    noted = [repeated.run(environment, 1) for _ in range(EVENTS)]
                    _, passes = repeated.run(environment, PASSES)
                submitted = rival.run(job)
                case.add(SPARKLET, *events)
                case.add(IN_SCRIPT, *(Run(passed, 0.0, 0.0) for _, (passed,) in noted))
                case.add(SPARK_ALONE, *(Run(passed, 0.0, 0.0) for passed in passes[FIRST_PASSES:]))
                case.add(PLAIN, submitted)
                shares += [run.wall_s - passed for run, (passed,) in noted]
                ratios.append(round(submitted.wall_s / statistics.median(run.wall_s for run in events), 1))
        known = {
            "rows": ROWS,
            "function_memory_mb": MEMORY_MB,
            "rivals": parameters([rival]),
            "own_share_ms": round(1000 * statistics.median(shares)),
            "ratio_of_each_run": ratios,
            "median_ratio": statistics.median(ratios),
        }
        publish(document("warm_share", QUESTION, known, [case]))
    say(f"own_share_ms={known['own_share_ms']} median_ratio={known['median_ratio']}")


if __name__ == "__main__":
    main()
