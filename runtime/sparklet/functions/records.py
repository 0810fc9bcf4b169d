"""Calls that are recorded in the ledger: their ids, and the consumer of those that Lambda or the queue gave up.

An asynchronous call is a task in the ledger's table, by its own id and its attempt. Lambda reports its failure (killed,
out of memory, timed out, never begun) to the dead-letter queue, where the queue's messages end up, too.
"""

import functools
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sparklet.errors import LedgerError, PayloadError
from sparklet.ledger.rules import bounded_failure, is_held, task_failure
from sparklet.model import TASK_ID, Failure, TaskRecord
from sparklet.ports import TaskStore
from sparklet.settings import ledger_table

if TYPE_CHECKING:
    from sparklet.aws.dynamodb import DynamoTaskStore

RECORDED = "recorded"  # marks an envelope whose answer goes into the ledger


def claimed_id(envelope: Any) -> str:
    """The record that an envelope names, unverified; PayloadError if it names none."""
    try:
        document = json.loads(envelope["sparklet_call"])
        found = f"{document['task_id']}.{document['attempt']}"
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise PayloadError(f"this is no sparklet_call: {type(error).__name__}") from error
    if not TASK_ID.fullmatch(found):
        raise PayloadError("this is no sparklet_call: no task has such an id")
    return found


def failures_handler(event: Mapping[str, Any], context: object) -> dict[str, Any]:
    """Record FAILED for each call that was given up; the batch response names those that must come back."""
    failed = []
    for message in event["Records"]:
        try:
            fail(_tasks(), json.loads(message["body"]), _tasks().clock.now_s())
        except LedgerError as error:
            print(json.dumps({"level": "WARNING", "message": str(error)}))
            failed.append({"itemIdentifier": message["messageId"]})
        except (PayloadError, ValueError, AttributeError) as error:
            print(json.dumps({"level": "ERROR", "message": f"{message['messageId']} cannot be read: {error}"}))
    return {"batchItemFailures": failed}


def fail(tasks: TaskStore, given_up: Mapping[str, Any], now_s: float) -> None:
    """Record that a call was given up: by the queue (its envelope), or by Lambda (``requestPayload`` and its report).

    LedgerError if the ledger does not answer, or another invocation has the call.
    """
    task_id = claimed_id(given_up.get("requestPayload", given_up))
    was = tasks.get_task(task_id)
    record = was or TaskRecord(task_id)
    if record.state.ended:
        return
    failure = task_failure(record)
    if context := given_up.get("requestContext"):
        found = given_up.get("responsePayload") or {"errorMessage": "Lambda gave the call up"}
        failure = Failure(found.get("errorType", context.get("condition", "")), found["errorMessage"], retryable=False)
    mine = context and record.attempt_id.startswith(context.get("requestId", ""))
    if is_held(record, now_s) and not mine:
        raise LedgerError(f"attempt {record.attempt_id} has {task_id}")
    if not tasks.replace_task(record.failed(bounded_failure(failure), now_s), was):
        raise LedgerError(f"{task_id} changed meanwhile")


@functools.cache
def _tasks() -> "DynamoTaskStore":
    from sparklet.aws.clients import AwsClients
    from sparklet.aws.dynamodb import DynamoTaskStore

    return DynamoTaskStore(AwsClients(), ledger_table())
