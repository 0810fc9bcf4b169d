"""Lambda entry points of what watches runs, and the composition root of both."""

import json
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

from sparklet.aws.clients import AwsClients
from sparklet.aws.dynamodb import DynamoLedger
from sparklet.aws.messaging import SqsQueue
from sparklet.aws.s3 import S3Store, input_stores
from sparklet.clock import SystemClock
from sparklet.errors import SparkletError
from sparklet.fanout.checker import CheckReport, check, open_runs
from sparklet.fanout.deployment import Deployment
from sparklet.fanout.recovery import LetterFate, consume
from sparklet.ports import Message
from sparklet.settings import fanout_settings


def dlq_handler(event: Mapping[str, Any], context: object) -> dict[str, Any]:
    """Consume dead letters (SQS event); letters that could not be dealt with come back."""
    return handle_letters(_deployment(), event)


def checker_handler(event: Mapping[str, Any], context: object) -> dict[str, Any]:
    """Check every open run (scheduled event)."""
    return handle_check(_deployment())


def handle_letters(at: Deployment, event: Mapping[str, Any]) -> dict[str, Any]:
    """Consume each letter of an SQS event; the batch response names those that must come back."""
    failures = []
    for record in event["Records"]:
        letter = Message(record["messageId"], record["body"], record.get("receiptHandle", ""))
        try:
            fate = consume(at, letter)
        except SparkletError as error:
            failures.append({"itemIdentifier": letter.message_id})
            _log("ERROR", "a dead letter could not be dealt with and comes back", letter.message_id, error=str(error))
        else:
            _log("ERROR" if fate is LetterFate.KEPT else "INFO", "dead letter", letter.message_id, fate=fate)
    return {"batchItemFailures": failures}


def handle_check(at: Deployment) -> dict[str, Any]:
    """Check every open run; one that cannot be checked does not hold up the others, but fails the invocation."""
    answers: dict[str, Any] = {}
    problem: SparkletError | None = None
    for run in open_runs(at):
        try:
            answers[run.run_id] = _said(check(at, run.run_id))
        except SparkletError as error:
            problem = error
            _log("ERROR", "a run could not be checked", run.run_id, error=str(error))
    if problem:
        raise problem
    return {"runs": answers}


def _said(report: CheckReport) -> dict[str, Any]:
    done = {name: getattr(report, name) for name in ("lapsed", "requeued", "abandoned", "planned")}
    return {"state": str(report.run.state), "pending": report.counts.pending, "running": report.counts.running, **done}


def _log(level: str, message: str, subject: str, **fields: str) -> None:
    sys.stdout.write(json.dumps({"level": level, "message": message, "subject": subject, **fields}) + "\n")
    sys.stdout.flush()


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
    )
