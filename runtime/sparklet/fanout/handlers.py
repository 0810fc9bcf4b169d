"""Lambda entry points of what plans and watches runs, and their composition root."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoLedger, DynamoTasks
from sparklet.aws.messaging import SqsQueue
from sparklet.aws.notices import notifier_for
from sparklet.aws.s3 import S3Store, input_stores
from sparklet.clock import SystemClock
from sparklet.errors import EventError, NoticeError, SparkletError
from sparklet.events.sqs import task_request_of
from sparklet.fanout.checking.checker import CheckReport, check, log_untold
from sparklet.fanout.checking.differences import Watch
from sparklet.fanout.checking.overview import look_over
from sparklet.fanout.checking.recovery import LetterFate, consume, keep
from sparklet.fanout.checking.settling import due, find_forgotten
from sparklet.fanout.checking.task_letters import consume_task
from sparklet.fanout.deployment import Deployment
from sparklet.fanout.log import log, write_line
from sparklet.fanout.machines.steps import Answer, take_step
from sparklet.fanout.planning.plan_requests import handle_request
from sparklet.metrics import (
    LETTERS_DROPPED,
    LETTERS_FAILED,
    LETTERS_KEPT,
    LETTERS_SENT_AGAIN,
    RUNS_UNCHECKED,
    SHARDS_FAILED,
    Emitter,
    Meter,
)
from sparklet.ports import Message
from sparklet.settings import fanout_settings, map_concurrency, metrics_namespace, planner_settings

METRIC_OF_FATE = {
    LetterFate.DROPPED: LETTERS_DROPPED,
    LetterFate.SENT_AGAIN: LETTERS_SENT_AGAIN,
    LetterFate.FAILED: LETTERS_FAILED,
    LetterFate.KEPT: LETTERS_KEPT,
}
"""What is measured of a letter, by its fate."""


def planner_handler(event: Any, context: Any) -> dict[str, Any]:
    """Enter a run (see ``plan_requests``) and plan it as far as the time goes; called again it goes on."""
    answer = handle_request(
        _deployment(),
        event,
        planner_settings(),
        context.aws_request_id,
        lambda: context.get_remaining_time_in_millis() / 1000,
    )
    log("INFO", "planned" if answer["sealed"] else "not all planned yet", answer["run_id"], shards=answer["shards"])
    return answer


def dlq_handler(event: Mapping[str, Any], context: object) -> dict[str, Any]:
    """Consume dead letters (SQS event); letters that could not be dealt with come back."""
    with _measured(Emitter.DLQ_CONSUMER) as at:
        return handle_letters(at, event)


def checker_handler(event: Mapping[str, Any], context: object) -> dict[str, Any]:
    """Check every open run (scheduled event)."""
    with _measured(Emitter.CHECKER) as at:
        return handle_check(at, _watch())


def step_handler(event: Any, context: object) -> Answer:
    """Do one step of a state machine, see ``steps``; what cannot be done is raised, for its ``Retry`` and ``Catch``."""
    with _measured(Emitter.CHECKER) as at:
        return take_step(at, map_concurrency(), event)


def handle_letters(at: Deployment, event: Mapping[str, Any]) -> dict[str, Any]:
    """Consume each letter of an SQS event; the batch response names those that must come back."""
    failures = []
    for record in event["Records"]:
        sent_s = int(record.get("attributes", {}).get("SentTimestamp", 0)) / 1000
        letter = Message(record["messageId"], record["body"], record.get("receiptHandle", ""), sent_s=sent_s)
        try:
            fate = _fate(at, letter, record)
        except SparkletError as error:
            failures.append({"itemIdentifier": letter.message_id})
            log("ERROR", "a dead letter could not be dealt with and comes back", letter.message_id, error=str(error))
        else:
            at.measure(METRIC_OF_FATE[fate])
            at.measure(SHARDS_FAILED, fate is LetterFate.FAILED)
            log("ERROR" if fate is LetterFate.KEPT else "INFO", "dead letter", letter.message_id, fate=fate)
    return {"batchItemFailures": failures}


def _fate(at: Deployment, letter: Message, record: Mapping[str, Any]) -> LetterFate:
    """What becomes of a letter: of a run's shard, of a task of the asynchronous API, or of nobody."""
    try:
        request = task_request_of(record)
    except EventError as error:
        return keep(at, letter, str(error))
    if request is None:
        return consume(at, letter)
    try:
        return consume_task(at, request)
    except NoticeError as error:  # the task has ended; coming back the letter would find nothing to do
        log("ERROR", "a notice was not sent", request.task_id, error=str(error))
        return LetterFate.FAILED


def handle_check(at: Deployment, watch: Watch | None = None) -> dict[str, Any]:
    """Check every open run; one that cannot be checked does not hold up the others, but fails the invocation.

    Then look for differences between queue, ledger and results, those that last by what ``watch`` remembers, and for
    open runs of which nobody said that they are.
    """
    answers: dict[str, Any] = {}
    reports: list[CheckReport] = []
    problem: SparkletError | None = None
    unsettled = tuple(at.ledger.unsettled_runs())
    for run in due(at, unsettled):
        try:
            reports.append(check(at, run.run_id))
            answers[run.run_id] = _said(reports[-1])
        except SparkletError as error:
            problem = error
            at.measure(RUNS_UNCHECKED)
            log("ERROR", "a run could not be checked", run.run_id, error=str(error))
    look_over(at, unsettled, reports, watch or Watch())
    find_forgotten(at)
    if problem:
        raise problem
    return {"runs": answers}


def _said(report: CheckReport) -> dict[str, Any]:
    log_untold(report)
    done = {name: getattr(report, name) for name in ("lapsed", "requeued", "abandoned", "planned")}
    return {"state": str(report.run.state), "pending": report.counts.pending, "running": report.counts.running, **done}


@contextmanager
def _measured(emitter: Emitter) -> Iterator[Deployment]:
    """The deployment with a meter, whose line is written at the end of the invocation, however that ends."""
    meter = Meter(metrics_namespace(), emitter, write_line)
    try:
        yield replace(_deployment(), meter=meter)
    finally:
        meter.emit()


@cache
def _watch() -> Watch:
    """What earlier invocations of this environment saw."""
    return Watch()


@cache
def _deployment() -> Deployment:
    """The deployed ports, made at the first event: an import must not fail for a missing variable."""
    settings = fanout_settings()
    clients = AwsClients()
    return Deployment(
        bucket=settings.bucket,
        store=S3Store(clients),
        ledger=DynamoLedger(clients, settings.ledger_table),
        queue=SqsQueue(clients, settings.queue_url),
        clock=SystemClock(),
        open_inputs=input_stores(clients),
        tasks=DynamoTasks(clients, settings.ledger_table),
        notifier=notifier_for(clients, settings.notice_topic_arn, settings.notice_bus),
        letters=SqsQueue(clients, settings.dlq_url),
    )
