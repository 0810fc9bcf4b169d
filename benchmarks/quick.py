"""How much less than a spark-submit does the CSV job need, cold and warm? Under a minute; ``make bench-quick``.

Turns of one cold start, some warm invocations and one plain spark-submit. The last line on standard output:
``cold_ratio=… warm_ratio=… cold_cpu_ratio=… warm_cpu_ratio=…``. On a busy machine look at those of CPU time.

    python -m benchmarks.quick [--budget-s 40]
"""

import argparse

from benchmarks.comparison import SPARKLET, Case, document, publish, rounds
from benchmarks.stage import stage
from benchmarks.starts import warm_runs

JOB, RIVAL = "csv_to_parquet", "plain"
INVOCATIONS = 10  # a turn
WARM_S = 10.0  # of a turn
MIN_TURNS = 1


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget-s", type=float, default=40, help="no further turn is begun that would not fit")
    options = parser.parse_args()
    cold, warm = Case("cold", [RIVAL]), Case("warm", [RIVAL])
    with stage([JOB], [RIVAL]) as at:
        [job], [rival] = at.jobs, at.rivals
        for _ in rounds(options.budget_s, MIN_TURNS):
            with at.function.environment() as environment:
                cold.add(SPARKLET, environment.run(job))
                warm.add(SPARKLET, *warm_runs(environment, job, INVOCATIONS, WARM_S))
            submitted = rival.run(job)
            for case in (cold, warm):
                case.add(RIVAL, submitted)
        question = f"How much less than a spark-submit does {JOB} need, cold and warm?"
        publish(document("quick", question, at.parameters, [cold, warm]))
    ratios = [(case.name, case.ratios(RIVAL)) for case in (cold, warm)]
    words = [f"{name}_ratio={ratio['wall']}" for name, ratio in ratios]
    print(" ".join([*words, *(f"{name}_cpu_ratio={ratio['cpu']}" for name, ratio in ratios)]))


if __name__ == "__main__":
    main()
