"""How long does an event take in a worker that has done one before, compared with a spark-submit?

For each job one environment, whose first event is not counted. Each turn: some invocations of it, then the rivals, once
each: they are fresh for every event. CPU time of an invocation: its turn's, what is done after the answer included,
over the turn's invocations. Tables are shared: every side appends to the same one.

    python -m benchmarks.warm [--jobs hello csv_to_parquet] [--invocations 25] [--budget-s 220]
"""

import argparse
import time
from dataclasses import replace

from benchmarks.comparison import SPARKLET, Case, Run, document, publish, rounds
from benchmarks.function import Environment
from benchmarks.stage import RIVALS, stage
from benchmarks.workload import Job

LEAST_TURNS = 2
LEAST_INVOCATIONS = 10
AFTERWARDS_S = 1.0  # for what the worker does once its answer is out


def warm_runs(environment: Environment, job: Job, invocations: int, budget_s: float = 60) -> list[Run]:
    """Invoke so often, or less if the time is over; each run has the mean of their CPU time."""
    before_s, end_s = environment.cpu_s(), time.monotonic() + budget_s
    runs: list[Run] = []
    while len(runs) < invocations and (len(runs) < LEAST_INVOCATIONS or time.monotonic() < end_s):
        runs.append(environment.run(job))
    time.sleep(AFTERWARDS_S)
    cpu_s = (environment.cpu_s() - before_s) / len(runs)
    return [replace(run, cpu_s=cpu_s) for run in runs]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="*", default=(), help="some of them only")
    parser.add_argument("--invocations", type=int, default=25, help="a turn")
    parser.add_argument("--budget-s", type=float, default=220, help="of all jobs; no further turn would fit into it")
    options = parser.parse_args()
    cases = []
    with stage(options.jobs) as at:
        share_s = options.budget_s / len(at.jobs)
        for job in at.jobs:
            case = Case(job.name, RIVALS)
            cases.append(case)
            with at.function.environment() as environment:
                environment.run(job)  # cold
                for _ in rounds(share_s, LEAST_TURNS):
                    case.add(SPARKLET, *warm_runs(environment, job, options.invocations, share_s / 2))
                    for rival in at.rivals:
                        case.add(rival.side, rival.run(job))
        question = "How long does an event take in a worker that has done one before, compared with a spark-submit?"
        publish(document("warm", question, {**at.parameters, "invocations_a_turn": options.invocations}, cases))


if __name__ == "__main__":
    main()
