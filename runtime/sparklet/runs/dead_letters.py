"""Messages of the dead-letter queue: each gets a disposition.

A message gets there after too many receives. A receive is not an attempt: SQS counts it even if workers are throttled
and no code runs. So the ledger, which counts attempts, decides: a shard with an attempt left gets its message again, as
often as ``dispatch`` allows. For a message of the asynchronous API the task ends as FAILED, with its last known cause.
"""

import json
import re
from datetime import UTC, datetime
from enum import StrEnum

from sparklet.errors import EventError, LedgerError, RunNotFoundError, ShardNotFoundError
from sparklet.events import TaskRequest
from sparklet.job.event_objects import read_json
from sparklet.ledger.rules import last_failure
from sparklet.model import ClaimStatus, Notice, Run, ShardRecord, ShardRef, TaskRecord
from sparklet.planning.planner import send_messages
from sparklet.ports import Message
from sparklet.ports.deployment import Deployment
from sparklet.runs.dispatch import DEAD_LETTER

CLOCKS_DIFFER_S = 1.0  # how far the queue's clock and ours differ at most
MAX_TRIES = 5  # while others change the shard's record; after that SQS delivers the message again


class Disposition(StrEnum):
    """What became of a dead-letter message, which can be deleted then."""

    DROPPED = "DROPPED"  # the shard has ended, is RUNNING, has a later generation, or is not for the queue
    SENT_AGAIN = "SENT_AGAIN"  # the shard has an attempt left and got a new message
    FAILED = "FAILED"  # the shard is FAILED now, with its last known cause
    KEPT = "KEPT"  # the message cannot be read, and is stored under dead-letters/


def consume(deployment: Deployment, message: Message) -> Disposition:
    """Dispose of a dead-letter message about a shard; after an error SQS must deliver the message again."""
    try:
        ref = ShardRef.from_document(read_json(message.body))
    except EventError as error:
        return keep(deployment, message, str(error))
    if ref is None:
        return keep(deployment, message, "the message does not name a run and a shard, as JSON")
    for _ in range(MAX_TRIES):
        try:
            run, record = deployment.ledger.runs.get(ref.run_id), deployment.ledger.shards.get(ref.run_id, ref.shard)
        except (RunNotFoundError, ShardNotFoundError) as error:
            return keep(deployment, message, str(error))
        if not _depends_on(message, ref, run, record):
            return Disposition.DROPPED
        if record.used_attempts >= run.options.max_attempts or DEAD_LETTER.is_spent(record):
            never_started = f"never started: {record.unrun} messages sent again all came back as dead-letter messages"
            if deployment.ledger.attempts.abandon(record, last_failure(record, never_started)):
                return Disposition.FAILED
        # Counted before it is sent: else a message that always comes back would never be given up. After a crash in
        # between the checker finds that the shard waits.
        elif counted_record := deployment.ledger.attempts.count_requeue(record, unrun=True):
            send_messages(deployment, run, [counted_record], by_check=True)
            return Disposition.SENT_AGAIN
    raise LedgerError(f"shard {ref.shard} of run {ref.run_id} changed {MAX_TRIES} times under its dead-letter message")


def _depends_on(message: Message, ref: ShardRef, run: Run, record: ShardRecord) -> bool:
    """Whether a shard depends on this message: nobody else dispatches or ends the shard."""
    if not record.is_for_functions or ref.generation < record.generation:
        return False  # the checker sends another message, splits the shard, or starts a worker for it
    if run.cancelled_s is not None:
        return False  # the checker fails the shard
    # If so, a message was sent again at changed_s, and no attempt has ended since.
    has_newer_message = record.requeues > 0 and record.attempts == 0
    return not (has_newer_message and 0 < message.sent_s < record.changed_s - CLOCKS_DIFFER_S)


def keep(deployment: Deployment, message: Message, reason: str) -> Disposition:
    """Store a message under ``dead-letters/`` for an operator; a second delivery replaces it."""
    now = datetime.fromtimestamp(deployment.clock.now_s(), UTC)
    # The id comes from outside: a slash in it would make folders, and some clients resolve dots.
    name = re.sub(r"[^A-Za-z0-9_-]", "_", message.message_id)
    document = {"message_id": message.message_id, "kept": now.isoformat(), "reason": reason, "body": message.body}
    deployment.store.put(
        f"s3://{deployment.bucket}/dead-letters/{now:%Y-%m-%d}/{name}.json", json.dumps(document, indent=2).encode()
    )
    return Disposition.KEPT


def consume_task(deployment: Deployment, request: TaskRequest) -> Disposition:
    """End the task of a dead-letter message, and send its notice; LeaseLostError if an attempt still holds the task."""
    claim = deployment.ledger.tasks.give_up(TaskRecord(request.task_id, accepted_s=request.accepted_s))
    # Whoever has ended the task sends its notice.
    if claim.status is ClaimStatus.DONE:
        return Disposition.DROPPED
    if deployment.notifier is not None:
        deployment.notifier.notify(Notice.of_task(claim.record))
    return Disposition.FAILED
