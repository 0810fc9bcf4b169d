"""Lambda entry points of planner, checker, steps and the consumer of dead letters, and their composition root."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from itertools import islice
from typing import Any

from sparklet.aws.clients import AwsClients
from sparklet.aws.services import StepFunctionsOrchestrator, compose, notifier_for
from sparklet.aws.stacks import settings_of
from sparklet.connectors.data_catalog.glue import GlueCatalog
from sparklet.engines.create import engines_of
from sparklet.errors import EventError, NoticeError, SparkletError
from sparklet.events.sqs import task_request_of
from sparklet.log import Log
from sparklet.model import SCHEME, Run, ShardState
from sparklet.planning.plan_requests import handle_request
from sparklet.ports import Message, metrics
from sparklet.ports.deployment import Deployment
from sparklet.ports.metrics import Emitter, Meter
from sparklet.runs.checker import CheckReport, check, log_unnotified
from sparklet.runs.dead_letters import Disposition, consume, consume_task, keep
from sparklet.runs.manifest import runs_to_check, runs_to_finalize
from sparklet.runs.state_machine_steps import Response, take_step
from sparklet.settings import fanout_settings, map_concurrency, metrics_namespace, planner_settings

METRIC_OF_DISPOSITION = {
    Disposition.DROPPED: metrics.DEAD_LETTERS_DROPPED,
    Disposition.SENT_AGAIN: metrics.DEAD_LETTERS_RESENT,
    Disposition.FAILED: metrics.DEAD_LETTERS_FAILED,
    Disposition.KEPT: metrics.DEAD_LETTERS_KEPT,
}
"""The metric that counts a dead-letter message."""
MAX_SKIPPED = 1000  # how many shards that wait for engines are read before one that does not
MAX_STORED = 1000  # how many stored dead-letter messages are counted: one page of a listing


def planner_handler(event: Any, context: Any) -> dict[str, Any]:
    """Enter a run (see ``plan_requests``) and plan it as far as the time allows; a second call continues."""
    response = handle_request(
        this_deployment(),
        event,
        planner_settings(),
        context.aws_request_id,
        lambda: context.get_remaining_time_in_millis() / 1000,
    )
    message = "planned" if response["sealed"] else "not all planned yet"
    Log().info(message, subject=response["run_id"], shards=response["shards"])
    return response


def dlq_handler(event: Mapping[str, Any], context: object) -> dict[str, Any]:
    """Consume dead-letter messages (SQS event)."""
    with _metered_deployment(Emitter.DLQ_CONSUMER) as deployment:
        return handle_dead_letters(deployment, event)


def checker_handler(event: Mapping[str, Any], context: object) -> dict[str, Any]:
    """Check every open run (scheduled event)."""
    with _metered_deployment(Emitter.CHECKER) as deployment:
        return handle_check(deployment)


def step_handler(event: Any, context: object) -> Response:
    """Do a step of a state machine (``state_machine_steps``); errors are raised, for its ``Retry`` and ``Catch``."""
    with _metered_deployment(Emitter.CHECKER) as deployment:
        # On AWS only the checker function has the permission to start workers of engines.
        return take_step(replace(deployment, starts_workers=False), map_concurrency(), event)


def handle_dead_letters(deployment: Deployment, event: Mapping[str, Any]) -> dict[str, Any]:
    """Consume each dead-letter message of an SQS event; the response names those that SQS must deliver again."""
    failures = []
    for record in event["Records"]:
        sent_s = int(record.get("attributes", {}).get("SentTimestamp", 0)) / 1000
        message = Message(record["messageId"], record["body"], sent_s)
        try:
            disposition = _dispose(deployment, message, record)
        # A message that fails must not make SQS deliver the rest of its batch again: those messages are disposed of.
        except SparkletError as error:
            failures.append({"itemIdentifier": message.message_id})
            Log().error("a dead-letter message failed and comes back", subject=message.message_id, error=str(error))
        else:
            deployment.measure(METRIC_OF_DISPOSITION[disposition])
            deployment.measure(metrics.SHARDS_FAILED, disposition is Disposition.FAILED)
            write = Log().error if disposition is Disposition.KEPT else Log().info
            write("dead-letter message", subject=message.message_id, disposition=disposition)
    return {"batchItemFailures": failures}


def _dispose(deployment: Deployment, message: Message, record: Mapping[str, Any]) -> Disposition:
    """Consume a message about a run's shard or a task of the asynchronous API; keep any other message."""
    try:
        request = task_request_of(record)
    except EventError as error:
        return keep(deployment, message, str(error))
    if request is None:
        return consume(deployment, message)
    try:
        return consume_task(deployment, request)
    except NoticeError as error:  # the task has ended, so there is nothing to repeat
        Log().error("a notice was not sent", subject=request.task_id, error=str(error))
        return Disposition.FAILED


def handle_check(deployment: Deployment) -> dict[str, Any]:
    """Check every open run, then measure the deployment; raise at the end if a run could not be checked."""
    responses: dict[str, Any] = {}
    reports: list[CheckReport] = []
    problem: SparkletError | None = None
    unfinalized = tuple(deployment.ledger.runs.unfinalized())
    for run in runs_to_check(deployment, unfinalized):
        try:
            reports.append(check(deployment, run.run_id))
            responses[run.run_id] = _response(reports[-1])
        except SparkletError as error:
            # Raised at the end: a run that cannot be checked must not prevent the checks of the other runs.
            problem = error
            deployment.measure(metrics.RUNS_UNCHECKED)
            Log().error("a run could not be checked", subject=run.run_id, error=str(error))
    _measure_deployment(deployment, unfinalized, reports)
    if problem:
        raise problem
    return {"runs": responses}


def _response(report: CheckReport) -> dict[str, Any]:
    """A run's entry in the checker's response; what went wrong in its check is logged."""
    log_unnotified(report)
    actions = {"lapsed": report.expired, "started": report.started}
    actions |= {name: getattr(report, name) for name in ("requeued", "abandoned", "planned")}
    if report.trouble:
        Log().warning("no worker can be started now", subject=report.run.run_id, error=report.trouble)
    return {
        "state": str(report.run.state),
        "pending": report.counts.pending,
        "running": report.counts.running,
        **actions,
    }


def _measure_deployment(deployment: Deployment, unfinalized: Iterable[Run], reports: Sequence[CheckReport]) -> None:
    """Measure the deployment after a round of checks, and finalize ended runs. A failure is only logged."""
    still_open = [report for report in reports if not report.run.state.ended]
    deployment.measure(metrics.RUNS_OPEN, len(still_open))
    deployment.measure(metrics.SHARDS_PENDING, sum(report.counts.pending for report in still_open))
    deployment.measure(metrics.SHARDS_RUNNING, sum(report.counts.running for report in still_open))
    try:
        deployment.measure(
            metrics.OLDEST_OPEN_SHARD, max((_waiting_s(deployment, report) for report in still_open), default=0.0)
        )
        letters = islice(deployment.store.list(f"{SCHEME}{deployment.bucket}/dead-letters/"), MAX_STORED)
        deployment.measure(metrics.DEAD_LETTERS_STORED, sum(1 for _ in letters))
        for run in runs_to_finalize(deployment, unfinalized):
            deployment.ledger.runs.finalize(run)
    except SparkletError as error:
        Log().warning("the deployment could not be looked over", subject="deployment", error=str(error))


def _waiting_s(deployment: Deployment, report: CheckReport) -> float:
    """How long the longest waiting PENDING shard has waited, by a sample: the first bucket of the index."""
    if not report.counts.pending:
        return 0.0
    now_s = deployment.clock.now_s()
    for_engines = deployment.ledger.shards.for_engines(report.run.run_id)
    first = islice(deployment.ledger.shards.expired(report.run.run_id, ShardState.PENDING, now_s), MAX_SKIPPED)
    for_functions = (record for record in first if not record.engine)
    oldest = [record for records in (for_engines, for_functions) for record in islice(records, 1)]
    return max((now_s - record.changed_s for record in oldest), default=0.0)


@contextmanager
def _metered_deployment(emitter: Emitter) -> Iterator[Deployment]:
    """Yield the deployment with a meter; its metrics are written after the block, also if that fails."""
    # Flushed, since Lambda freezes the process after the answer: a line in a buffer would wait for the next event.
    meter = Meter(metrics_namespace(), emitter, partial(print, flush=True))
    try:
        yield replace(this_deployment(), meter=meter)
    finally:
        meter.emit()


@cache
def this_deployment() -> Deployment:
    """The deployed ports, made at the first event, since an import must not fail because of a missing variable."""
    settings = fanout_settings()
    clients = AwsClients()
    functions = partial(settings_of, clients, settings.worker_function)
    env = {"SPARKLET_BUCKET": settings.bucket, "SPARKLET_LEDGER_TABLE": settings.ledger_table}
    return compose(
        *(clients, settings.bucket, settings.ledger_table, settings.queue_url),
        notifier=notifier_for(clients, settings.notice_topic_arn, settings.notice_bus),
        engines=engines_of(clients, settings.engines, env, functions),
        functions=functions if settings.worker_function else None,
        input_of=lambda execution: StepFunctionsOrchestrator(clients).status(execution).input,
        catalog=GlueCatalog(clients).objects,
    )
