"""Lambda entry point and composition root of the worker.

Read the worker from here::

    lambda_handler    events.parse_event: event → tasks; events.answer: outcomes → response
    worker            gives each task its share of the time
    attempt           claim → execute → conclude, while a lease is held
    shards            claims, publishes and records a run's shards; task_requests, those of the API
    executor          fetches script and inputs (inputs), makes the event, runs the script
    spark.runner      runs it in a warm JVM (warm_runner) or a new one (spark_submit)
    Measuring         the metrics of an invocation, among them its peak of memory

The JVM starts before AWS's clients are made, and init does not wait for the JVM, since it has only 10 s. Before a
snapshot, and with provisioned concurrency, init has more time and primes the worker (``priming``).
"""

import functools
import os
import re
import resource
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from sparklet.events import Event, Outcome, answer, parse_event
from sparklet.ledger.clock import SystemClock
from sparklet.log import Log
from sparklet.ports import metrics
from sparklet.ports.metrics import Emitter, Meter
from sparklet.settings import WorkerSettings, map_concurrency, metrics_namespace, worker_settings
from sparklet.spark.processes import descendants
from sparklet.spark.runner import Deadline, Runner
from sparklet.spark.warm_runner import WarmRunner, runner_for
from sparklet.worker.executor import Executor, ScriptCache
from sparklet.worker.shards import ShardClaims
from sparklet.worker.task_requests import RequestClaims
from sparklet.worker.worker import Worker

_PEAK = re.compile(rb"^VmHWM:\s+(\d+) kB", re.MULTILINE)


def lambda_handler(event: Event, context: Any) -> Any:
    """Do the event's tasks; ``sparklet.events.answer`` describes the response."""
    worker, measuring = _worker()
    settings = worker.executor.settings
    deadline = Deadline.within(context.get_remaining_time_in_millis() / 1000, settings.grace_s)
    outcomes = worker.do(parse_event(event), deadline, context.aws_request_id)
    measuring.invocation(outcomes, worker.executor.runner, context.aws_request_id)
    return answer(event, outcomes, kafka_failures=settings.kafka_failures)


@functools.cache
def _settings() -> WorkerSettings:
    settings = worker_settings()
    os.environ.update(settings.script_env)  # all processes that are started inherit it
    return settings


@functools.cache
def _runner() -> Runner:
    runner = runner_for(_settings())
    runner.start()
    return runner


@functools.cache
def _worker() -> "tuple[Worker, Measuring]":
    """The worker of this environment, which is made while the JVM boots, and what measures its invocations."""
    meter = Meter(metrics_namespace(), Emitter.WORKER, Log().line)
    worker = worker_over_aws(_settings(), _runner(), meter)
    if worker.shards:
        worker.shards.beside = _in_background
    return worker, Measuring(meter)


def _in_background(work: Callable[[], None]) -> None:
    """Do the work in a thread beside the response; if the environment freezes, the thread goes on at the next event."""
    threading.Thread(target=work, daemon=True).start()


def worker_over_aws(settings: WorkerSettings, runner: Runner, meter: Meter | None = None) -> Worker:
    """A worker that uses AWS's services, with this environment's account and region."""
    # Imported here, after the JVM was started: it boots while botocore is loaded.
    from sparklet.aws.clients import AwsClients
    from sparklet.aws.object_store import S3ObjectStore
    from sparklet.aws.services import compose, notifier_for, queue_opener

    clients = AwsClients()
    store = S3ObjectStore(clients)
    scripts = ScriptCache(store, settings.scratch / "sparklet-scripts", settings.script_prefixes)
    worker = Worker(Executor(settings, runner, scripts), None, None, Log())
    if settings.ledger_table and settings.bucket:
        log_stream = os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME", "")
        names = settings.bucket, settings.ledger_table, settings.queue_url
        deployment = compose(clients, *names, clock=SystemClock(), meter=meter)
        notifier = notifier_for(clients, settings.notice_topic_arn, settings.notice_bus)
        worker.requests = RequestClaims(deployment.ledger, notifier, queue_opener(clients), worker.executor, log_stream)
        worker.shards = ShardClaims(
            deployment,
            worker.executor,
            log_stream,
            map_concurrency=map_concurrency(),
            peak_mb=memory_peak_mb,
        )
    return worker


def _prime() -> None:
    """Run small tasks during init, so that the JVM of the first event has run tasks before."""
    from sparklet.aws.clients import prime_clients
    from sparklet.worker.priming import prime, renew_after_restore

    runner = _runner()
    if isinstance(runner, WarmRunner):
        renew_after_restore(runner)
        prime(runner, _settings().scratch, clients=prime_clients)


@dataclass
class Measuring:
    """Measures each invocation of one environment."""

    meter: Meter
    _cold: bool = True
    _jvm_starts: int = 1  # the first start is not a restart

    def invocation(self, outcomes: Iterable[Outcome], runner: Runner, request_id: str) -> None:
        """Emit the metrics of one invocation as one log line; ``ShardClaims`` has already added those of its shards."""
        if not self.meter.on:
            return
        if self._cold:
            self.meter.add(metrics.COLD_STARTS)
        self._cold = False
        for outcome in outcomes:
            self._count_task(outcome)
        starts = getattr(runner, "jvm_starts", 0)  # only the warm runner counts them
        if starts > self._jvm_starts:
            self.meter.add(metrics.JVM_RESTARTS, starts - self._jvm_starts)
            self._jvm_starts = starts
        self.meter.add(metrics.MEMORY_PEAK, memory_peak_mb())
        self.meter.emit(request_id=request_id)

    def _count_task(self, outcome: Outcome) -> None:
        """Count a task that belongs to no run, unless it was skipped or another attempt holds it."""
        if outcome.task.shard is not None:
            return
        if outcome.error is not None:
            self.meter.add(metrics.TASKS_FAILED)
            if outcome.task.request is not None and outcome.acknowledged:
                self.meter.add(metrics.SHARDS_FAILED)
        elif outcome.answer.get("state") == "SUCCEEDED" and "claim" not in outcome.answer:
            self.meter.add(metrics.TASKS_SUCCEEDED)


def memory_peak_mb() -> float:
    """An upper bound of the memory used: this process's peak plus the larger of two values.

    One is the sum of the peaks of its living descendants, the other the largest peak among those that have ended.
    """
    ended_kb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    living_kb = sum(map(peak_kb, descendants(os.getpid())))
    return round((peak_kb(os.getpid()) + max(living_kb, ended_kb)) / 1024, 1)


def peak_kb(pid: int) -> int:
    """The peak memory of one process; 0 if the process has ended."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            match = _PEAK.search(file.read())
    except OSError:  # the process has ended
        return 0
    return int(match[1]) if match else 0  # a zombie has no memory


if "AWS_LAMBDA_FUNCTION_NAME" in os.environ:  # in Lambda, not in a test that imports this module
    _runner()
    if os.environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") in ("snap-start", "provisioned-concurrency"):
        _prime()
