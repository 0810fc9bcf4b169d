"""Run one shard in its own container, without the limit of 15 minutes: ``shard --run RUN --shard N``.

For engines, or any machine with the image. It makes one attempt as the Lambda worker does, in the same ledger, with the
same short lease, which it renews. SIGTERM ends the script and releases the shard. If the container is killed, another
attempt can claim the shard once the lease has expired.

Exit codes: 0 the shard has SUCCEEDED, 1 it has FAILED, 2 there is no such shard, 75 it is not done: try again later.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from sparklet.aws.clients import AwsClients
from sparklet.aws.stacks import settings_of
from sparklet.errors import EventError, LedgerError, SettingsError, SparkletError
from sparklet.events import Outcome, Source, Task
from sparklet.log import Log
from sparklet.model import MIB, ShardRecord, ShardRef, ShardState
from sparklet.ports import Clock, Ledger
from sparklet.settings import SparkSettings, WorkerSettings, spark_settings, worker_settings
from sparklet.spark.runner import Deadline, Runner
from sparklet.spark.spark_options import is_local
from sparklet.spark.warm_runner import PORT, runner_for
from sparklet.worker.handler import worker_over_aws
from sparklet.worker.shards import ShardClaims
from sparklet.worker.worker import Worker

DONE, FAILED, WRONG, LATER = 0, 1, 2, 75  # 75 is EX_TEMPFAIL
MESSAGE_VARIABLE = "SPARKLET_SHARD_MESSAGE"
DEFAULT_TIMEOUT_S = 4 * 3600.0
GENERATION_TRIES = 5
BY_HAND = "by hand"  # stands for an engine where a user started the container for a shard of the functions
STOPPED = "the container received SIGTERM before the script had ended"
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True, slots=True)
class ShardCommand:
    """The options of the command ``shard``, which makes one attempt at one shard."""

    run_id: str
    shard: int
    generation: int | None  # None: the generation that the shard has in the ledger
    timeout_s: float
    redrive: bool  # first reopen a FAILED shard
    conf: Mapping[str, str] = field(default_factory=dict)  # Spark settings, such as a cluster's spark.master


def parse(arguments: Sequence[str], message: str = "") -> ShardCommand:
    """Read the command line. A ``message`` names the shard if no option does; EventError if neither does."""
    parser = argparse.ArgumentParser(prog="shard", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--run", default="", help="the run's id")
    parser.add_argument("--shard", type=int, metavar="N", help="the shard's number")
    parser.add_argument("--generation", type=int, metavar="G", help="only if the shard is at this generation")
    default = f"a shard's message instead; default: ${MESSAGE_VARIABLE}"
    parser.add_argument("--message", default=message, metavar="JSON", help=default)
    limit = f"the script's time limit; default {DEFAULT_TIMEOUT_S:.0f}"
    parser.add_argument("--timeout", type=float, default=DEFAULT_TIMEOUT_S, metavar="SECONDS", help=limit)
    parser.add_argument("--redrive", action="store_true", help="first reopen a FAILED shard in a new generation")
    cluster = "Spark's, such as spark.master or spark.remote of a cluster; may be repeated"
    parser.add_argument("--conf", action="append", default=[], metavar="KEY=VALUE", help=cluster)
    options = parser.parse_args(arguments)
    if options.timeout <= 0:
        raise EventError(f"--timeout is {options.timeout:g}; it must be more than 0 seconds")
    if wrong := [pair for pair in options.conf if "=" not in pair]:
        raise EventError(f"--conf {wrong[0]} must look like KEY=VALUE")
    if not options.run or options.shard is None:
        try:
            ref = ShardRef.from_document(json.loads(options.message or "null"))
        except (ValueError, RecursionError) as error:
            raise EventError("--message is not JSON") from error
        if ref is None:
            raise EventError(f"no shard is named: give --run and --shard, or --message, or set {MESSAGE_VARIABLE}")
        options.run, options.shard, options.generation = ref.run_id, ref.shard, ref.generation
    conf = dict(pair.split("=", 1) for pair in options.conf)
    return ShardCommand(options.run, options.shard, options.generation, options.timeout, options.redrive, conf)


def run_one(shards: ShardClaims, worker: Worker, command: ShardCommand) -> int:
    """Make one attempt at the shard; return the exit code. SIGTERM ends the script, but interrupts no ledger call."""
    log = worker.log.bind(run=command.run_id, shard=command.shard)
    grace_s = worker.executor.settings.grace_s
    deadline = Deadline.within(command.timeout_s + grace_s, grace_s, shards.clock.now_s())
    # The handler raises no exception: that could interrupt the write that records or releases the shard.
    signal.signal(signal.SIGTERM, lambda number, frame: deadline.expire(STOPPED))
    try:
        record = _read_or_reopen(shards.deployment.ledger, shards.clock, command, log)
    except LedgerError as error:
        log.error("the shard cannot be claimed", error=str(error))
        return LATER if error.retryable else WRONG
    ref = record.ref
    if command.generation is not None and not command.redrive:
        ref = replace(ref, generation=command.generation)
    # No engine has the name BY_HAND: with it a worker can claim shards of the functions, and a shard that needs more
    # memory is not sent to another engine.
    shards.engine = record.engine or BY_HAND
    return exit_code(worker.run(Task(Source.DIRECT, {}, shard=ref), deadline, request_id=""))


def exit_code(outcome: Outcome) -> int:
    """The container's exit code for an attempt's outcome."""
    if outcome.error is not None:
        return FAILED if outcome.acknowledged else LATER
    code_by_state = {str(ShardState.SUCCEEDED): DONE, str(ShardState.FAILED): FAILED}
    return code_by_state.get(outcome.answer.get("state", ""), LATER)


def _read_or_reopen(ledger: Ledger, clock: Clock, command: ShardCommand, log: Log) -> ShardRecord:
    """The shard's record; with ``redrive`` a FAILED shard is reopened first, in a new generation of its run."""
    tries = GENERATION_TRIES if command.redrive else 0
    while (record := ledger.shards.get(command.run_id, command.shard)).state is ShardState.FAILED and tries:
        tries -= 1
        # LedgerError: another worker has started this generation; the next try starts a later one.
        with suppress(LedgerError):
            run = ledger.runs.get(command.run_id)
            run = ledger.runs.start_generation(command.run_id, run.generation + 1, run.scripts[-1])
            ledger.attempts.redrive(command.run_id, command.shard, run.generation)
            log.info("the FAILED shard is open again", generation=run.generation)
        clock.sleep(0.1)
    return record


def container_memory_mb(limits: Sequence[Path] = CGROUP_LIMITS) -> int:
    """The container's memory limit in MB, at most the machine's memory."""
    machine_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    texts = [limit.read_text().strip() for limit in limits if limit.is_file()]
    # Without a limit the file has ``max`` (cgroup v2), or a number beyond any machine's memory (v1).
    return min([machine_bytes, *(int(text) for text in texts if text.isdigit())]) // MIB


def shares_disk(settings: SparkSettings) -> bool:
    """Whether the executors can read this machine's files: by the cluster's address they run on this machine."""
    addresses = f"{settings.conf.get('spark.master')} {settings.conf.get('spark.remote')}"
    return is_local(settings) or "://127.0.0.1" in addresses or "://localhost" in addresses


def make_runner(settings: WorkerSettings, conf: Mapping[str, str]) -> tuple[Runner, bool]:
    """Make the runner, with the command's ``conf``. Also returns whether executors can read this machine's files."""
    spark, attached = spark_settings(), PORT in os.environ  # attached: this process is a driver (``on_platform``)
    if "AWS_LAMBDA_FUNCTION_MEMORY_SIZE" not in os.environ:
        spark = replace(spark, memory_mb=container_memory_mb())
    spark = replace(spark, conf={**spark.conf, **conf})
    # Executors on other machines do not inherit the environment.
    if attached or not is_local(spark):
        executor_env = {f"spark.executorEnv.{name}": value for name, value in settings.script_env.items()}
        spark = replace(spark, conf={**executor_env, **spark.conf})
    if not attached:
        return runner_for(settings, spark), shares_disk(spark)
    from sparklet.engines.attached import AttachedRunner

    return AttachedRunner(spark, settings.scratch), False


def settings_of_the_functions(clients: AwsClients, env: Mapping[str, str]) -> Mapping[str, str]:
    """The settings of the worker function that the environment names; {} if it names none.

    Other shards of the run have these settings, which affect rows. A container that a user starts must read them; an
    engine's worker gets them at its start, so its environment names no function.
    """
    function = env.get("SPARKLET_WORKER_FUNCTION", "")
    return settings_of(clients, function) if function else {}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the container's command; return the exit code."""
    log = Log()
    try:
        command = parse(sys.argv[1:] if arguments is None else arguments, os.environ.get(MESSAGE_VARIABLE, ""))
        os.environ |= {**settings_of_the_functions(AwsClients(), os.environ), **os.environ}
        settings = worker_settings()
        os.environ.update(settings.script_env)
        runner, sees_files = make_runner(settings, command.conf)
        worker = worker_over_aws(settings, runner)
        if worker.shards is None:
            raise SettingsError("SPARKLET_LEDGER_TABLE and SPARKLET_BUCKET are not set: the stack's outputs name both")
        worker.executor.inputs_to = None if sees_files else worker.shards.deployment.store
        # With PORT the JVM runs already.
        if PORT not in os.environ:
            runner.start()
    except SparkletError as error:
        log.error(str(error), error_class=type(error).__name__)
        return WRONG
    try:
        return run_one(worker.shards, worker, command)
    finally:
        runner.close()


if __name__ == "__main__":
    sys.exit(main())
