"""Calls that are recorded in the ledger: their ids, and the consumer of those that Lambda or the queue gave up.

An asynchronous call is a task in the ledger's table, by its own id and the number of its try. Lambda tells its failure
(killed, out of memory, timed out, never begun) to the dead-letter queue, where messages of the queue end up, too.
"""

import functools
import json
from collections.abc import Mapping
from typing import Any

from sparklet.clock import SystemClock
from sparklet.errors import LedgerError, PayloadError, SparkletError
from sparklet.ledger.rules import bounded_failure, is_held, task_failure
from sparklet.model import TASK_ID, Failure, TaskRecord
from sparklet.ports import Clock, TaskStore
from sparklet.settings import ledger_table

RECORDED = "recorded"
"""A key of an envelope whose answer goes into the ledger."""


def record_id(task_id: str, attempt: int) -> str:
    """The id of a try's record."""
    return f"{task_id}.{attempt}"


def claimed_id(envelope: Any) -> str:
    """The record that an envelope names; nothing of it is verified. PayloadError if it names none."""
    try:
        document = json.loads(envelope["sparklet_call"])
        found = record_id(document["task_id"], document["attempt"])
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise PayloadError(f"this is no sparklet_call: {type(error).__name__}") from error
    if not TASK_ID.fullmatch(found):
        raise PayloadError("this is no sparklet_call: its id cannot be one")
    return found


def read_envelope(body: str) -> dict[str, Any]:
    """A message's document; PayloadError if it is none."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise PayloadError("the message is no JSON") from error
    if not isinstance(document, dict):
        raise PayloadError("the message is no JSON object")
    return document


def failures_handler(event: Mapping[str, Any], context: object) -> dict[str, Any]:
    """Record FAILED for each call that was given up; the batch response names those that must come back."""
    failed = []
    for record in event["Records"]:
        try:
            fail(_tasks(), read_envelope(record["body"]), SystemClock())
        except SparkletError as error:
            print(json.dumps({"level": "ERROR", "message": str(error), "record": record["messageId"]}))
            if not isinstance(error, PayloadError):  # which never becomes readable
                failed.append({"itemIdentifier": record["messageId"]})
    return {"batchItemFailures": failed}


def fail(tasks: TaskStore, given_up: Mapping[str, Any], clock: Clock) -> None:
    """Record that Lambda (``requestPayload`` and its circumstances) or the queue (the envelope) gave a call up.

    Raises
    ------
    LedgerError
        If the ledger does not answer, or another invocation holds the call.
    """
    task_id = claimed_id(given_up.get("requestPayload", given_up))
    was = tasks.get_task(task_id)
    record = was or TaskRecord(task_id)
    if record.state.ended:
        return
    context, found = given_up.get("requestContext"), given_up.get("responsePayload") or {}
    mine = context is not None and record.attempt_id.startswith(context.get("requestId", ""))
    if is_held(record, clock.now_s()) and not mine:
        raise LedgerError(f"attempt {record.attempt_id} holds {task_id}")
    failure = task_failure(record)
    if context is not None:
        cause = found.get("errorType") or context.get("condition", "")
        failure = Failure(cause, found.get("errorMessage") or "Lambda gave the call up", retryable=False)
    if not tasks.replace_task(record.failed(bounded_failure(failure), clock.now_s()), was):
        raise LedgerError(f"{task_id} changed meanwhile; try again")


@functools.cache
def _tasks() -> TaskStore:
    from sparklet.aws.clients import AwsClients
    from sparklet.aws.dynamodb import DynamoTasks

    return DynamoTasks(AwsClients(), ledger_table())
