"""What comes back from the dead: letters of the dead-letter queue.

A message dies of its receives, and a receive is no attempt: where workers are throttled it is counted though no code
ran. So the ledger decides, which counts attempts: a shard that has one left gets its message again, at most three times
in a row (a message that kills each worker before it can claim must end, too).
"""

import json
import re
from datetime import UTC, datetime
from enum import StrEnum

from sparklet.errors import EventError, LedgerError, RunNotFoundError, ShardNotFoundError
from sparklet.fanout.deployment import Deployment
from sparklet.model import Dispatch, Failure, ShardRecord, ShardRef, ShardState
from sparklet.ports import Message

MOST_RESENDS = 3
CLOCKS_DIFFER_S = 1.0  # the queue's from ours, at most
MOST_TRIES = 5  # a shard that moves on under us more often is left to the letter's next delivery


class LetterFate(StrEnum):
    """What became of a letter; in each case it is done with and may be forgotten."""

    DROPPED = "DROPPED"  # the shard has ended, has an owner or is a Map's to hand out; or an older generation is meant
    SENT_AGAIN = "SENT_AGAIN"  # no attempt came of the message, and one is left: the shard gets a new message
    FAILED = "FAILED"  # the shard is FAILED now, with its last known cause
    KEPT = "KEPT"  # nobody can tell what it is about: kept under dead-letters/


def consume(at: Deployment, letter: Message) -> LetterFate:
    """Bring what a dead letter asked for to a known end.

    Raises
    ------
    LedgerError, ObjectStoreError, QueueError
        If a port did not answer: the letter must come back.
    """
    try:
        ref = _ref(letter.body)
    except EventError as error:
        return keep(at, letter, str(error))
    for _ in range(MOST_TRIES):
        try:
            run, record = at.ledger.runs.get(ref.run_id), at.ledger.shards.get(ref.run_id, ref.shard)
        except (RunNotFoundError, ShardNotFoundError) as error:
            return keep(at, letter, str(error))
        if run.dispatch is Dispatch.MAP:
            return LetterFate.DROPPED  # nobody sends messages for such a run; its shards are in the next wave
        if run.cancelled_s is not None and record.state is ShardState.PENDING:
            return LetterFate.DROPPED  # nothing of it begins any more; the checker gives it up
        if _has_newer(letter, record):
            return LetterFate.DROPPED
        if fate := _decide(at, ref, record, run.options.max_attempts):
            return fate
    raise LedgerError(f"shard {ref.shard} of run {ref.run_id} changed {MOST_TRIES} times while its letter was read")


def _ref(body: str) -> ShardRef:
    """The shard a letter is about; EventError if it is about none."""
    try:
        ref = ShardRef.from_document(json.loads(body))
    except (ValueError, RecursionError) as error:
        raise EventError(f"the letter is no JSON: {error}") from error
    if ref is None:
        raise EventError("the letter names no run and shard")
    return ref


def _decide(at: Deployment, ref: ShardRef, record: ShardRecord, max_attempts: int) -> LetterFate | None:
    """What becomes of the letter; None if the shard has moved on since it was read."""
    if record.state.ended or ref.generation < record.generation:
        return LetterFate.DROPPED
    if record.state is ShardState.RUNNING:
        if record.lease_end_s > at.clock.now_s():
            return LetterFate.DROPPED  # if its owner dies, the checker sends a new message
        lapsed = at.ledger.attempts.lapse(record, max_attempts)
        if lapsed is None:
            return None
        if lapsed.state is ShardState.FAILED:
            return LetterFate.FAILED
        record = lapsed
    if record.attempts < max_attempts and record.unrun < MOST_RESENDS:
        counted = at.ledger.attempts.count_requeue(record, unrun=True)
        return LetterFate.SENT_AGAIN if counted and at.queue.send([counted.ref.to_body()]) else None
    return LetterFate.FAILED if at.ledger.attempts.abandon(record, _last_cause(record)) else None


def _has_newer(letter: Message, record: ShardRecord) -> bool:
    """Whether a message was sent for the shard after this letter's: the letter was delivered twice, or there were two.

    ``changed_s`` says when that was, unless an attempt has ended since. Wrong clocks do no harm: the checker sends a
    message again that is missing.
    """
    waits_since_requeue = record.state is ShardState.PENDING and record.requeues > 0 and record.attempts == 0
    return waits_since_requeue and 0 < letter.sent_s < record.changed_s - CLOCKS_DIFFER_S


def _last_cause(record: ShardRecord) -> Failure:
    if record.attempts == 0:
        message = f"never started: {record.unrun} messages sent again all came back as dead letters"
        return Failure("NeverStarted", message, retryable=False)
    cause = record.error_class or "DeadLetter", record.error_message or "its message came back as a dead letter"
    return Failure(*cause, retryable=False)


def keep(at: Deployment, letter: Message, reason: str) -> LetterFate:
    """Put a letter where a human finds it; delivered again it replaces itself."""
    now = datetime.fromtimestamp(at.clock.now_s(), UTC)
    name = re.sub(r"[^A-Za-z0-9_-]", "_", letter.message_id)
    document = {"message_id": letter.message_id, "kept": now.isoformat(), "reason": reason, "body": letter.body}
    at.store.put(f"s3://{at.bucket}/dead-letters/{now:%Y-%m-%d}/{name}.json", json.dumps(document, indent=2).encode())
    return LetterFate.KEPT
