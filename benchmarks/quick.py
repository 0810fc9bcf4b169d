"""How much less than a spark-submit does the CSV job need, cold, warm and restored? A minute; ``make bench-quick``.

First a worker is primed and stopped, half of the minute. Then turns of one cold start, some warm invocations and one
plain spark-submit; then the stopped worker's first event (``benchmarks.restored``, which has all jobs). The last line
on standard output: ``cold_ratio=… warm_ratio=… restored_ratio=…``, the same of CPU time (``cold_cpu_ratio=…``), which
is what to look at on a busy machine, and priming's time and memory.

    python -m benchmarks.quick [--rounds 1]
"""

from benchmarks.comparison import SPARKLET, Case, document, options, publish
from benchmarks.restored import described, snapshot
from benchmarks.stage import stage
from benchmarks.starts import warm_runs

JOB, RIVAL = "csv_to_parquet", "plain"
INVOCATIONS = 10  # a turn
WARM_S = 10.0  # of a turn


def main() -> None:
    """Measure and print."""
    parser = options(__doc__)
    parser.set_defaults(rounds=1)
    given = parser.parse_args()
    cases = cold, warm, restored = [Case(name, [RIVAL]) for name in ("cold", "warm", "restored")]
    with stage([JOB], [RIVAL]) as at, snapshot(at.function) as frozen:
        [job], [rival] = at.jobs, at.rivals
        for _ in range(given.rounds):
            with at.function.environment() as environment:
                cold.add(SPARKLET, environment.run(job))
                warm.add(SPARKLET, *warm_runs(environment, job, INVOCATIONS, WARM_S))
            submitted = rival.run(job)
            for case in cases:
                case.add(RIVAL, submitted)
        restored.add(SPARKLET, frozen.run(job))
        question = f"How much less than a spark-submit does {JOB} need, cold, warm and restored?"
        priming = described([frozen])
        publish(document("quick", question, {**at.parameters, **priming}, cases))
    ratios = [(case.name, case.ratios(RIVAL)) for case in cases]
    words = [f"{name}_ratio={ratio['wall']}" for name, ratio in ratios]
    words += [f"{name}_cpu_ratio={ratio['cpu']}" for name, ratio in ratios]
    print(" ".join([*words, *(f"{name}={value}" for name, value in priming.items())]))


if __name__ == "__main__":
    main()
