"""How much less than a spark-submit does the CSV job need, cold, warm and restored? ``make bench-quick``.

Then the demo's days, each with an output of its own (``benchmarks.per_input``), beside one spark-submit over all:
``per_input_ratio=…`` is how many times as long they take, and above 2.5 it is a failure.

First a worker is primed and stopped. Then turns of one cold start, some warm invocations, also of the job with its
schema given, and one plain spark-submit for each of both; then the stopped worker's first event
(``benchmarks.restored``, which has all jobs). The last line on standard output:
``cold_ratio=… warm_ratio=… restored_ratio=… warm_schema_ratio=…``; the same of CPU time (``cold_cpu_ratio=…``), which
is what to look at on a busy machine; how much of a warm event a given schema saves; priming's time and memory.

    python -m benchmarks.quick [--rounds 1]
"""

import os
import statistics

from benchmarks.comparison import SPARKLET, Case, document, options, publish
from benchmarks.fan_out import ONE_JOB
from benchmarks.per_input import DAYS, compared, staged
from benchmarks.restored import described, snapshot
from benchmarks.stage import stage
from benchmarks.starts import warm_runs

JOB, GIVEN, RIVAL = "csv_to_parquet", "csv_to_parquet-schema", "plain"
INVOCATIONS = 10  # a turn
WARM_S = 10.0  # of a turn
MOST_PER_INPUT = 2.5


def main() -> None:
    """Measure and print."""
    parser = options(__doc__)
    parser.set_defaults(rounds=1)
    asked = parser.parse_args()
    cases = cold, warm, restored, schema = [Case(name, [RIVAL]) for name in ("cold", "warm", "restored", "warm_schema")]
    with stage([JOB, GIVEN], [RIVAL]) as at, snapshot(at.function) as frozen:
        (job, given), [rival] = at.jobs, at.rivals
        for _ in range(asked.rounds):
            with at.function.environment() as environment:
                cold.add(SPARKLET, environment.run(job))
                environment.run(given)
                for case, each in ((warm, job), (schema, given)):
                    case.add(SPARKLET, *warm_runs(environment, each, INVOCATIONS, WARM_S))
            submitted = rival.run(job)
            for case in (cold, warm, restored):
                case.add(RIVAL, submitted)
            schema.add(RIVAL, rival.run(given))
        restored.add(SPARKLET, frozen.run(job))
        question = f"How much less than a spark-submit does {JOB} need, cold, warm and restored?"
        priming = described([frozen])
        publish(document("quick", question, {**at.parameters, **priming}, cases))
    ratios = [(case.name, case.ratios(RIVAL)) for case in cases]
    words = [f"{name}_ratio={ratio['wall']}" for name, ratio in ratios]
    words += [f"{name}_cpu_ratio={ratio['cpu']}" for name, ratio in ratios]
    with staged(DAYS, workers := os.cpu_count() or 1) as (year, one_job):
        per_input = 1 / compared(year, one_job, workers, asked.rounds).ratios(ONE_JOB)["wall"]
    words.append(f"per_input_ratio={per_input:.2f}")
    inferred_s, given_s = (statistics.median(run.wall_s for run in case.runs[SPARKLET]) for case in (warm, schema))
    words.append(f"schema_saves_percent={100 * (1 - given_s / inferred_s):.0f}")
    print(" ".join([*words, *(f"{name}={value}" for name, value in priming.items())]))
    if per_input > MOST_PER_INPUT:
        raise SystemExit(
            f"an output for each input takes {per_input:.2f} times as long as one job, above {MOST_PER_INPUT}"
        )


if __name__ == "__main__":
    main()
