"""Deadlines, and workers that end before they can report the outcome of their shard."""

from sparklet.model import Run, ShardState
from tests.container.bench import ShardBench
from tests.container.container import Conditions
from tests.waiting import eventually

CONDITIONS = Conditions(timeout_s=20, env={"SPARKLET_GRACE_S": "4"})
ONCE = """
import os, signal, time
from pathlib import Path

worker = int(Path(f"/proc/{{os.getppid()}}/stat").read_text().rpartition(")")[2].split()[1])  # the host's parent
seen = Path("/tmp/seen-{signal}")
if not seen.exists():
    seen.touch()
    os.kill(worker, signal.{signal})
    time.sleep(600)
"""


def test_the_guard_ends_a_script_before_lambda_would(bench: ShardBench) -> None:
    bench.next_works()  # no part of the deadline is spent on the JVM's start
    run = bench.start("import time\ntime.sleep(600)", max_attempts=1)

    answer = bench.deliver()

    assert answer.document == {"batchItemFailures": []}
    record = bench.shard(run)
    assert (record.state, record.error_class) == (ShardState.FAILED, "DeadlineExceededError")
    assert "was ended at its deadline, at line 2" in record.error_message
    bench.next_works()


def test_a_worker_killed_at_its_deadline_loses_no_shard(bench: ShardBench) -> None:
    """The worker's guard cannot end the script, since the worker's own process is stopped."""
    run = bench.start(ONCE.format(signal="SIGSTOP"), max_attempts=2)

    answer = bench.deliver()

    assert "Task timed out after" in answer.text, answer
    assert bench.shard(run).state is ShardState.RUNNING  # no process was left to report the end
    expired_and_done(bench, run)
    bench.next_works()


def test_a_worker_that_dies_loses_no_shard(bench: ShardBench) -> None:
    run = bench.start(ONCE.format(signal="SIGKILL"), max_attempts=2)

    answer = bench.deliver()

    assert answer.status == 502 and "Runtime.ExitError" in answer.text, answer
    bench.next_works()
    expired_and_done(bench, run)


def expired_and_done(bench: ShardBench, run: Run) -> None:
    """Assert that the checker ends the expired lease and sends the shard again, and that its next attempt succeeds."""
    eventually(lambda: bench.account.check(run).expired, "its lease is over")
    bench.deliver()
    record = bench.shard(run)
    assert (record.state, record.attempts) == (ShardState.SUCCEEDED, 2)
    assert bench.account.check(run).run.state.ended
