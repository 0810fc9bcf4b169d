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
BY_HAND = "by hand"  # the engine of a container that a user started for a shard of the functions
STOPPED = "the container received SIGTERM before the script had ended"
CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True, slots=True)
class ShardCommand:
    """The command line."""

    run_id: str
    shard: int
    generation: int | None  # None: the shard's own
    timeout_s: float
    redrive: bool  # first reopen a FAILED shard
    conf: Mapping[str, str] = field(default_factory=dict)  # Spark's, such as a cluster's spark.master


def parse(arguments: Sequence[str], message: str = "") -> ShardCommand:
    """Read the command line, or the environment's ``message``; raises EventError if they name no shard."""
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
            raise EventError(f"no shard is named: use --run and --shard, or --message, or {MESSAGE_VARIABLE}")
        options.run, options.shard, options.generation = ref.run_id, ref.shard, ref.generation
    conf = dict(pair.split("=", 1) for pair in options.conf)
    return ShardCommand(options.run, options.shard, options.generation, options.timeout, options.redrive, conf)


def run_one(shards: ShardClaims, worker: Worker, command: ShardCommand) -> int:
    """Make one attempt at the shard and return the exit code. SIGTERM ends the script, but no call to the ledger."""
    log = worker.log.bind(run=command.run_id, shard=command.shard)
    grace_s = worker.executor.settings.grace_s
    deadline = Deadline.within(command.timeout_s + grace_s, grace_s, shards.clock.now_s())
    # No exception here: it could break off a write to the ledger, by which the shard would be recorded or released.
    signal.signal(signal.SIGTERM, lambda number, frame: deadline.expire(STOPPED))
    try:
        record = _record(shards.deployment.ledger, shards.clock, command, log)
    except LedgerError as error:
        log.error("the shard cannot be claimed", error=str(error))
        return LATER if error.retryable else WRONG
    ref = record.ref
    if command.generation is not None and not command.redrive:
        ref = replace(ref, generation=command.generation)
    # A name that no engine has: it may claim the functions' shards, and what it lacks memory for goes to no engine.
    shards.engine = record.engine or BY_HAND
    return exit_code(worker.run(Task(Source.DIRECT, {}, shard=ref), deadline, request_id=""))


def exit_code(outcome: Outcome) -> int:
    """The container's exit code."""
    if outcome.error is not None:
        return FAILED if outcome.acknowledged else LATER
    return {str(ShardState.SUCCEEDED): DONE, str(ShardState.FAILED): FAILED}.get(outcome.answer.get("state", ""), LATER)


def _record(ledger: Ledger, clock: Clock, command: ShardCommand, log: Log) -> ShardRecord:
    tries = GENERATION_TRIES if command.redrive else 0
    while (record := ledger.shards.get(command.run_id, command.shard)).state is ShardState.FAILED and tries:
        tries -= 1
        with suppress(LedgerError):  # another worker opened a generation: the next try opens a later one
            run = ledger.runs.get(command.run_id)
            run = ledger.runs.start_generation(command.run_id, run.generation + 1, run.scripts[-1])
            ledger.attempts.redrive(command.run_id, command.shard, run.generation)
            log.info("the FAILED shard is open again", generation=run.generation)
        clock.sleep(0.1)
    return record


def container_memory_mb(limits: Sequence[Path] = CGROUP_LIMITS) -> int:
    """The container's memory limit, at most the machine's memory."""
    machine_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    texts = [limit.read_text().strip() for limit in limits if limit.is_file()]
    # Without a limit cgroup v2 says ``max``, and v1 a number beyond any machine's memory.
    return min([machine_bytes, *(int(text) for text in texts if text.isdigit())]) // MIB


def shares_disk(settings: SparkSettings) -> bool:
    """Whether the executors read this machine's files: they are here, by the cluster's address."""
    places = f"{settings.conf.get('spark.master')} {settings.conf.get('spark.remote')}"
    return is_local(settings) or "://127.0.0.1" in places or "://localhost" in places


def runner_here(settings: WorkerSettings, conf: Mapping[str, str]) -> tuple[Runner, bool]:
    """The runner, with ``conf`` of the command; and whether Spark's executors read this machine's files."""
    spark, attached = spark_settings(), PORT in os.environ  # attached: a driver's program, see ``on_platform``
    if "AWS_LAMBDA_FUNCTION_MEMORY_SIZE" not in os.environ:
        spark = replace(spark, memory_mb=container_memory_mb())
    spark = replace(spark, conf={**spark.conf, **conf})
    if attached or not is_local(spark):  # executors on other machines do not inherit the environment
        of_executors = {f"spark.executorEnv.{name}": value for name, value in settings.script_env.items()}
        spark = replace(spark, conf={**of_executors, **spark.conf})
    if not attached:
        return runner_for(settings, spark), shares_disk(spark)
    from sparklet.engines.attached import AttachedRunner

    return AttachedRunner(spark, settings.scratch), False


def settings_of_the_functions(clients: AwsClients, env: Mapping[str, str]) -> Mapping[str, str]:
    """The functions' settings, which a user's container lacks; other shards of the run had them, and they affect rows.

    An engine's worker was given them; its environment names no function.
    """
    function = env.get("SPARKLET_WORKER_FUNCTION", "")
    return settings_of(clients, function) if function else {}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the container; the exit code."""
    log = Log()
    try:
        command = parse(sys.argv[1:] if arguments is None else arguments, os.environ.get(MESSAGE_VARIABLE, ""))
        os.environ |= {**settings_of_the_functions(AwsClients(), os.environ), **os.environ}
        settings = worker_settings()
        os.environ.update(settings.script_env)
        runner, sees_files = runner_here(settings, command.conf)
        worker = worker_over_aws(settings, runner)
        if worker.shards is None:
            raise SettingsError("SPARKLET_LEDGER_TABLE and SPARKLET_BUCKET are not set: the stack's outputs name both")
        worker.executor.inputs_to = None if sees_files else worker.shards.deployment.store
        if PORT not in os.environ:  # that JVM is up already
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
