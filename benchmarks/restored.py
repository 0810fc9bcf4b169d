"""How long does a primed worker's first event take after a restore, compared with a spark-submit for each?

The worker is what it is under SnapStart (docs/decisions/0044): AWS's runtime client, before a stand-in for the runtime
API that has restore/next. Init primes the worker and says that it has ended; then all processes are stopped
(SIGSTOP), and their memory is counted. The time of the event begins before they go on (SIGCONT), so the hooks after a
restore are in it. What is not in it is AWS's: to load the snapshot.

Each event has a worker of its own. Priming knows nothing of the jobs: other scripts, columns and data.

    python -m benchmarks.restored [--jobs csv_to_parquet hello] [--rounds 5]
"""

import json
import signal
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks import process_tree
from benchmarks.comparison import SPARKLET, Case, document, options, publish, say
from benchmarks.function import CLIENT, Environment, Function
from benchmarks.stage import stage
from tests.stand_ins.lambda_environment import LambdaEnvironment, lambda_environment

QUESTION = "How long does a primed worker's first event take after a restore, compared with a spark-submit for each?"
RIVAL = "plain"
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")  # SnapStart has an endpoint in their place
INIT_LIMIT_S = 130.0  # Lambda's
FROZEN_S = 3.0
JOBS = ("csv_to_parquet", "json_to_delta", "delta_append", "iceberg_append", "hudi_append")


@dataclass(frozen=True)
class Snapshot(Environment):
    """A primed environment that stands still until its first event."""

    around: LambdaEnvironment
    init_s: float
    init_cpu_s: float
    size_mb: float

    def _answer(self, body: bytes) -> dict[str, Any]:
        process_tree.send(self.pid, signal.SIGCONT)
        self.around.restored.set()
        answer: dict[str, Any] = self.around.invoke(json.loads(body))
        return answer


@contextmanager
def snapshot(function: Function) -> Iterator[Snapshot]:
    """A worker of the function that was stopped after it was primed; SystemExit if it was not."""
    with lambda_environment({}) as around:
        env = {name: value for name, value in function.env.items() if name not in KEYS}
        began_s = time.monotonic()
        own = {**around.variables(), "AWS_ENDPOINT_URL": env["AWS_ENDPOINT_URL"]}
        with function.process(CLIENT, {**env, **own}) as (pid, log):
            ended = around.snapshot.wait(INIT_LIMIT_S)
            init_s, said = time.monotonic() - began_s, log.read_text(errors="replace")
            parts = _primed_parts(said) if ended else []
            if not parts:
                raise SystemExit(f"the worker was not primed within {init_s:.0f} s: {said[-3000:]}")
            process_tree.send(pid, signal.SIGSTOP)
            cpu_s, size_mb = process_tree.cpu_s(pid), process_tree.proportional_mb(pid)
            say(f"primed: {init_s:.1f} s, {cpu_s:.1f} s of CPU, {size_mb:.0f} MB (Pss): {', '.join(parts)}")
            yield Snapshot(function, pid, around.address, log, around, init_s, cpu_s, size_mb)


def _primed_parts(said: str) -> list[str]:
    """What was done; nothing if a part failed or the JVM is another one since."""
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    failed = any(line["message"] == "a part of priming failed" for line in lines)
    done = [line["parts"] for line in lines if line["message"] == "primed" and line["jvm_kept"]]
    return done[0] if done and not failed else []


def described(snapshots: Sequence[Snapshot]) -> dict[str, float]:
    """What priming took and how large the snapshots are, for the document; medians."""
    return {
        f"rehearsal_{name}": round(statistics.median(getattr(each, name) for each in snapshots), 1)
        for name in ("init_s", "init_cpu_s", "size_mb")
    }


def main() -> None:
    """Measure and print."""
    parser = options(__doc__)
    parser.add_argument("--jobs", nargs="*", default=JOBS, help="others")
    given = parser.parse_args()
    with stage(given.jobs, [RIVAL]) as at:
        cases, snapshots, [rival] = list[Case](), list[Snapshot](), at.rivals
        for job in at.jobs:
            case = Case(f"restored, {job.name}", [RIVAL])
            for _ in range(given.rounds):
                with snapshot(at.function) as frozen:
                    time.sleep(FROZEN_S)
                    case.add(SPARKLET, frozen.run(job))
                    snapshots.append(frozen)
                case.add(RIVAL, rival.run(job))
            cases.append(case)
        publish(document("restored", QUESTION, {**at.parameters, **described(snapshots)}, cases))


if __name__ == "__main__":
    main()
