"""One shard in a container of its own, where nobody ends it after 15 minutes: ``shard --run RUN --shard N``.

For ECS Fargate, or any machine with the image. Claim, execution and verdict are those of the Lambda worker, in the same
ledger, and so is its lease: short, and renewed while it works, whatever ``--timeout`` says. SIGTERM (Fargate gives
30 s) ends the script and releases the shard. What is killed without a word is noticed once its lease has lapsed.

Exit codes: 0 the shard has SUCCEEDED, 1 it has FAILED, 2 it cannot be asked for, 75 it is not done: try again later.
"""

import argparse
import json
import os
import signal
import sys
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from sparklet.clock import SystemClock
from sparklet.errors import (
    DeadlineExceededError,
    EventError,
    LedgerError,
    SettingsError,
    SparkletError,
)
from sparklet.events import Outcome, Source, Task
from sparklet.model import ShardRef, ShardResult, ShardState
from sparklet.ports import Clock, Ledger
from sparklet.settings import SparkSettings, WorkerSettings, spark_settings, worker_settings
from sparklet.worker.execution import Execution
from sparklet.worker.guards import MIB, Deadline
from sparklet.worker.log import Log
from sparklet.worker.runner import Runner
from sparklet.worker.script_cache import ScriptCache
from sparklet.worker.shards import Execute, ShardDesk
from sparklet.worker.spark_options import runner_for
from sparklet.worker.worker import Worker

DONE, FAILED, WRONG, LATER = 0, 1, 2, 75  # 75: EX_TEMPFAIL
MESSAGE_VARIABLE = "SPARKLET_SHARD_MESSAGE"
DEFAULT_TIMEOUT_S = 4 * 3600.0
GENERATION_TRIES = 5
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True, slots=True)
class Asked:
    """Which shard, and for how long."""

    run_id: str
    shard: int
    generation: int | None  # None: the shard's own
    timeout_s: float
    redrive: bool  # a FAILED shard is opened again first


class Stopping:
    """Turns SIGTERM into an error, but only while a script runs: no call to the ledger is cut in two."""

    def __init__(self) -> None:
        self._asked = self._running = False

    def listen(self) -> None:
        """Heed SIGTERM from now on, in the main thread."""
        signal.signal(signal.SIGTERM, self._notice)

    def guard(self, execute_: Execute) -> Execute:
        """``execute_`` so that a stop ends it; one that was asked for before does not let it begin."""

        def guarded(execution: Execution, deadline: Deadline, log: Log) -> ShardResult:
            self._running = True
            try:
                self._stop_if_asked()
                return execute_(execution, deadline, log)
            finally:
                self._running = False

        return guarded

    def _notice(self, number: int, frame: FrameType | None) -> None:
        first, self._asked = not self._asked, True
        if first and self._running:
            self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self._asked:
            raise DeadlineExceededError("the container was told to stop (SIGTERM) before the script had ended")


def parse(arguments: Sequence[str], message: str = "") -> Asked:
    """Read the command line; ``message`` is the environment's, for who cannot give arguments.

    Raises
    ------
    EventError
        If neither names a shard, or the message is not one of Sparklet's.
    """
    parser = argparse.ArgumentParser(prog="shard", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--run", default="", help="the run's id")
    parser.add_argument("--shard", type=int, metavar="N", help="the shard's number")
    parser.add_argument("--generation", type=int, metavar="G", help="only if the shard is at this generation")
    parser.add_argument(
        "--message", default=message, metavar="JSON", help=f"a shard's message instead; default: ${MESSAGE_VARIABLE}"
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=DEFAULT_TIMEOUT_S,
        metavar="SECONDS",
        help=f"what the script may take; default {DEFAULT_TIMEOUT_S:.0f}",
    )
    parser.add_argument("--redrive", action="store_true", help="open a FAILED shard in a new generation first")
    found = parser.parse_args(arguments)
    if found.timeout <= 0:
        raise EventError(f"--timeout is {found.timeout:g}; it must be more than 0 seconds")
    if found.run and found.shard is not None:
        return Asked(found.run, found.shard, found.generation, found.timeout, found.redrive)
    try:
        ref = ShardRef.from_document(json.loads(found.message or "null"))
    except (ValueError, RecursionError) as error:
        raise EventError("--message is not JSON") from error
    if ref is None:
        raise EventError(
            f"no shard is named: give --run and --shard, or a shard's message (--message, {MESSAGE_VARIABLE})"
        )
    return Asked(ref.run_id, ref.shard, ref.generation, found.timeout, found.redrive)


def run_one(desk: ShardDesk, asked: Asked, log: Log) -> int:
    """Do the shard; the exit code."""
    attempt_id = uuid.uuid4().hex[:12]
    log = log.bind(run=asked.run_id, shard=asked.shard, attempt=attempt_id)
    try:
        ref = _reference(desk.ledger, desk.clock, asked, log)
    except LedgerError as error:
        log.error("the shard cannot be asked for", error=str(error))
        return LATER if error.retryable else WRONG
    deadline = Deadline(desk.clock.now_s() + asked.timeout_s)
    return exit_code(desk.do(Task(Source.DIRECT, {}, shard=ref), ref, attempt_id, deadline, log))


def exit_code(outcome: Outcome) -> int:
    """What a container says with its end."""
    if outcome.error is not None:
        return FAILED if outcome.acknowledged else LATER
    return {str(ShardState.SUCCEEDED): DONE, str(ShardState.FAILED): FAILED}.get(outcome.answer.get("state", ""), LATER)


def _reference(ledger: Ledger, clock: Clock, asked: Asked, log: Log) -> ShardRef:
    record = ledger.shards.get(asked.run_id, asked.shard)
    for _ in range(GENERATION_TRIES if asked.redrive else 0):
        if record.state is not ShardState.FAILED:
            break
        with suppress(LedgerError):  # somebody else opened a generation: the next try is one later
            run = ledger.runs.get(asked.run_id)
            run = ledger.runs.start_generation(asked.run_id, run.generation + 1, run.scripts[-1])
            ledger.attempts.redrive(asked.run_id, asked.shard, run.generation)
            log.info("the FAILED shard is open again", generation=run.generation)
        clock.sleep(0.1)
        record = ledger.shards.get(asked.run_id, asked.shard)
    if asked.generation is None or asked.redrive:
        return record.ref
    return replace(record.ref, generation=asked.generation)


def container_memory_mb(limits: Sequence[Path] = CGROUP_LIMITS, machine: Path = Path("/proc/meminfo")) -> int:
    """What this container may use, the machine's memory at most: Lambda would have said so in its environment."""
    (total_kib,) = (int(line.split()[1]) for line in machine.read_text().splitlines() if line.startswith("MemTotal:"))
    texts = [limit.read_text().strip() for limit in limits if limit.is_file()]
    return min([total_kib * 1024, *(int(text) for text in texts if text.isdigit())]) // MIB


def desk_over_aws(settings: WorkerSettings, runner: Runner, stopping: Stopping) -> ShardDesk:
    """The desk of a container of its own: no queue, since nobody waits for a message's visibility."""
    if not (settings.ledger_table and settings.bucket):
        raise SettingsError("SPARKLET_LEDGER_TABLE and SPARKLET_BUCKET are not set: the stack's outputs name both")
    from sparklet.aws.clients import AwsClients
    from sparklet.aws.dynamodb import DynamoLedger
    from sparklet.aws.s3 import S3Store, input_stores

    clients = AwsClients()
    store = S3Store(clients)
    scripts = ScriptCache(store, settings.scratch / "sparklet-scripts", settings.script_prefixes)
    return ShardDesk(
        ledger=DynamoLedger(clients, settings.ledger_table),
        store=store,
        queue=None,
        scripts=scripts,
        bucket=settings.bucket,
        execute=stopping.guard(Worker(settings, runner, scripts, None, Log()).execute),
        clock=SystemClock(),
        grace_s=settings.grace_s,
        open_inputs=input_stores(clients),
    )


def _spark_settings() -> SparkSettings:
    settings = spark_settings()
    said = os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
    return settings if said else replace(settings, memory_mb=container_memory_mb())


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the container; the exit code."""
    log = Log()
    try:
        asked = parse(sys.argv[1:] if arguments is None else arguments, os.environ.get(MESSAGE_VARIABLE, ""))
        settings = worker_settings()
        os.environ.update(settings.script_env)
        runner = runner_for(settings, _spark_settings())
        stopping = Stopping()
        desk = desk_over_aws(settings, runner, stopping)
    except SparkletError as error:
        log.error(str(error), error_class=type(error).__name__)
        return WRONG
    stopping.listen()
    runner.start()
    try:
        return run_one(desk, asked, log)
    finally:
        runner.close()


if __name__ == "__main__":
    sys.exit(main())
