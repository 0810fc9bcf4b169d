"""How long does a worker's first event take, and a further one, compared with a spark-submit for each?

Of each job some turns: half of the invocations of a worker that has done one before; then, in an order that changes, a
fresh worker, from its start to its first answer, and the rivals, which are fresh for every event: ``plain``,
spark-submit as it is, and ``tuned``, with what is known to help; then the other half. What a worker does beside (its
runtime client, the script's way from the object store) counts; rivals have their script on disk.

A table of a format is new in each turn and all sides append to it. So what they find in it is of the same age: a
rival's commit comes after as many of the warm worker's as before them.

CPU time of a warm invocation is the mean of its half, with what is done after the answer.

    python -m benchmarks.starts [--jobs hello csv_to_parquet] [--invocations 10] [--rounds 5]
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.comparison import SPARKLET, Case, Run, document, options, publish
from benchmarks.function import Environment
from benchmarks.rivals import SparkSubmit
from benchmarks.stage import RIVALS, Stage, stage
from benchmarks.workload import Job

QUESTION = "How long does a worker's first event take, and a further one, compared with a spark-submit for each?"
MIN_INVOCATIONS = 5
HALF_S = 10.0  # no invocation is begun later in a half
AFTERWARDS_S = 1.0  # for what the worker does once its answer is out


@dataclass(frozen=True)
class Starts:
    """One job on all sides; the rivals' runs are compared with first and with further events."""

    at: Stage
    job: Job
    cold: Case
    warm: Case
    invocations: int  # a turn

    def measure(self, rounds: int) -> None:
        """All turns."""
        with self.at.function.environment() as lasting:
            lasting.run(self.job)
            for turn in range(rounds):
                self._turn(lasting, turn)

    def _turn(self, lasting: Environment, turn: int) -> None:
        self.job.renew()
        lasting.run(self.job)  # it makes the table; further events append
        half = -(-self.invocations // 2)
        self.warm.add(SPARKLET, *warm_runs(lasting, self.job, half, HALF_S))
        fresh: list[Callable[[], None]] = [
            self._first_event,
            *(partial(self._submit, rival) for rival in self.at.rivals),
        ]
        for run in fresh if turn % 2 else reversed(fresh):
            run()
        self.warm.add(SPARKLET, *warm_runs(lasting, self.job, half, HALF_S))

    def _first_event(self) -> None:
        with self.at.function.environment() as environment:
            self.cold.add(SPARKLET, environment.run(self.job))

    def _submit(self, rival: SparkSubmit) -> None:
        submitted = rival.run(self.job)
        for case in (self.cold, self.warm):
            case.add(rival.side, submitted)


def warm_runs(environment: Environment, job: Job, invocations: int, limit_s: float) -> list[Run]:
    """Invoke so often, or less if the time is over; each run has the mean of their CPU time."""
    before_s, end_s = environment.cpu_s(), time.monotonic() + limit_s
    runs: list[Run] = []
    while len(runs) < invocations and (len(runs) < MIN_INVOCATIONS or time.monotonic() < end_s):
        runs.append(environment.run(job))
    time.sleep(AFTERWARDS_S)
    cpu_s = (environment.cpu_s() - before_s) / len(runs)
    return [replace(run, cpu_s=cpu_s) for run in runs]


def main() -> None:
    """Measure and print."""
    parser = options(__doc__)
    parser.add_argument("--jobs", nargs="*", default=(), help="some of them only")
    parser.add_argument("--invocations", type=int, default=10, help="a turn, of the warm worker; less if they last")
    given = parser.parse_args()
    with stage(given.jobs) as at:
        started = [
            Starts(at, job, Case(f"cold, {job.name}", RIVALS), Case(f"warm, {job.name}", RIVALS), given.invocations)
            for job in at.jobs
        ]
        for each in started:
            each.measure(given.rounds)
        cases = [*(each.cold for each in started), *(each.warm for each in started)]
        publish(document("starts", QUESTION, {**at.parameters, "invocations_a_turn": given.invocations}, cases))


if __name__ == "__main__":
    main()
