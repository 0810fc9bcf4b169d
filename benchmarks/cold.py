"""How long does the first event wait for a worker that has to start, compared with a spark-submit?

Each turn: a fresh worker process behind the runtime interface emulator, from its start to its answer; then the
rivals, from their start to their end, with the same job, data, jars and Java. What the worker does beside (its runtime
client, the script's way from the object store) counts; rivals have their script on disk. Two rivals: ``plain``,
spark-submit as it is, and ``tuned``, with what is known to help.

    python -m benchmarks.cold [--jobs hello csv_to_parquet] [--budget-s 240]
"""

import argparse

from benchmarks.comparison import SPARKLET, Case, document, publish, rounds
from benchmarks.stage import RIVALS, Stage, stage
from benchmarks.workload import Job

LEAST_ROUNDS = 2


def measure(at: Stage, case: Case, job: Job, turn: int) -> None:
    """One run on each side; who begins changes."""
    sides = [SPARKLET, *case.rivals]
    for side in sides if turn % 2 else reversed(sides):
        if side == SPARKLET:
            with at.function.environment() as environment:
                case.add(side, environment.run(job))
        else:
            [rival] = [rival for rival in at.rivals if rival.side == side]
            case.add(side, rival.run(job))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="*", default=(), help="some of them only")
    parser.add_argument("--budget-s", type=float, default=240, help="no further turn is begun that would not fit")
    options = parser.parse_args()
    with stage(options.jobs) as at:
        cases = [Case(job.name, RIVALS) for job in at.jobs]
        for turn in rounds(options.budget_s, LEAST_ROUNDS):
            for case, job in zip(cases, at.jobs, strict=True):
                measure(at, case, job, turn)
        question = "How long does the first event wait for a worker that has to start, compared with a spark-submit?"
        publish(document("cold", question, at.parameters, cases))


if __name__ == "__main__":
    main()
