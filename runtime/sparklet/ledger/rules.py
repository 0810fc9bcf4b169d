"""The transitions' rules: how long a lease binds, who may claim, what fits into an item, the texts of refusals."""

import json
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any

from sparklet.errors import LeaseLostError, LedgerError
from sparklet.model import OF_SPLIT, ClaimStatus, Failure, Record, Run, ShardRecord, ShardResult, ShardState, TaskRecord
from sparklet.model.redaction import redacted

LEASE_S = 16.0  # how long, at least, an attempt owns a shard without a renewal; see docs/decisions/0079
RENEWALS_PER_S = 500  # of one run: half of the writes that a partition of DynamoDB allows
LEASE_GRACE_S = 5.0  # clocks differ: a claim takes over a lease only this long after the end of the lease
LEASE_EXPIRED = "LeaseExpired"  # the cause of an attempt whose worker was lost
OUTGROWN = frozenset({"OutOfMemoryError", "MemoryError", "TooLargeError", "DeadlineExceededError", LEASE_EXPIRED})
"""Causes of failures that a worker with more memory and time may avoid."""
CONFLICTS = frozenset(
    {
        *("ConcurrentAppendException", "ConcurrentDeleteDeleteException", "ConcurrentDeleteReadException"),  # Delta
        *("ConcurrentTransactionException", "ConcurrentWriteException"),
        *("MetadataChangedException", "ProtocolChangedException"),  # also if two writers create one table at once
        *("CommitFailedException", "HoodieLockException", "HoodieWriteConflictException"),  # Iceberg, Hudi
    }
)
"""Causes that are conflicts of two writers of one table. The next attempt may meet none, so this one is not counted."""
NEVER_BY_INPUT = CONFLICTS | frozenset(
    {
        *("ImportError", "IndentationError", "ModuleNotFoundError", "NameError", "SyntaxError", "TabError"),
        *("AccessDeniedException", "UnknownStoreException"),
        *(
            "CommitConflictError",
            "CommitStateUnknownError",
            "CommittedBeforeException",
            "DatabaseError",
            "EventError",
            "TableError",
        ),
    }
)
"""Root causes for which no input is to blame, unless the failure names an input."""

# Together the next five keep the largest item of a shard below 1 KB, one write unit of DynamoDB (docs/decisions/0004).
ERROR_CLASS_BYTES = 64
ERROR_MESSAGE_BYTES = WARNING_BYTES = 230
OUTPUTS_BYTES = 170
LOG_STREAM_BYTES = 64
TASK_ANSWER_BYTES = 16 * 1024
TASK_OUTPUTS = 20
TASK_OUTPUT_BYTES = 1024  # of one URI, as long as a key of S3 can be


def cut(text: str, most_bytes: int) -> str:
    """``text`` if it fits into ``most_bytes`` as UTF-8, else its beginning and an ellipsis."""
    encoded = text.encode("utf-8", "replace")  # no store takes a lone surrogate: it becomes "?"
    if len(encoded) <= most_bytes:
        return encoded.decode()
    ellipsis = "…"
    return encoded[: most_bytes - len(ellipsis.encode())].decode("utf-8", "ignore") + ellipsis


def bounded_failure(failure: Failure) -> Failure:
    """A failure cut to what fits into a shard's item, its secrets redacted."""
    message = cut(redacted(failure.message), ERROR_MESSAGE_BYTES)
    return Failure(cut(failure.error_class, ERROR_CLASS_BYTES), message, failure.retryable)


def stored_result(record: Record, result: ShardResult) -> dict[str, Any]:
    """The fields of a record that hold its result. A shard has as many of the first outputs as fit into its item.

    A task has more outputs, and its answer if that fits; the cause of an earlier attempt's failure is removed.
    """
    fields: dict[str, Any] = {"rows": result.rows, "output_bytes": result.output_bytes}
    if isinstance(record, TaskRecord):
        encoded = (uri.encode(errors="replace") for uri in result.outputs[:TASK_OUTPUTS])
        fields["outputs"] = tuple(uri.decode() for uri in encoded if len(uri) <= TASK_OUTPUT_BYTES)
        fits = len(json.dumps(result.answer)) <= TASK_ANSWER_BYTES + 2  # the brackets
        return {**fields, "answer": result.answer if fits else (), "error_class": "", "error_message": ""}
    total_bytes = accumulate(len(uri.encode("utf-8", "replace")) for uri in result.outputs)
    count = sum(up_to_here <= OUTPUTS_BYTES for up_to_here in total_bytes)
    fields["outputs"] = result.outputs[:count]
    return {**fields, "memory_mb": result.memory_mb, "schemas": result.schemas, "warning": result.warning}


def lease_s(workers: int) -> float:
    """The length of a lease in a run of up to this many workers at once; each renews its lease twice in that time."""
    return max(LEASE_S, 2 * workers / RENEWALS_PER_S)


def is_held(record: Record, now_s: float) -> bool:
    """Whether an attempt's lease is still valid: no other attempt is allowed to take over or end its shard or task."""
    return record.state is ShardState.RUNNING and record.lease_end_s >= now_s - LEASE_GRACE_S


def outgrown(cause: Failure) -> bool:
    """Whether a shard that failed by this cause might succeed in a worker with more memory and time."""
    # The kernel kills for lack of memory without an exception: only the signal shows it.
    return cause.error_class.rpartition(".")[2] in OUTGROWN or "ended by SIGKILL" in cause.message


def is_conflict(cause: Failure) -> bool:
    """Whether an attempt failed since another writer of a table came first."""
    # The innermost exception of Hudi's conflict is of a general class, so its text decides.
    is_of_hudi = "Cannot resolve conflicts for overlapping writes" in cause.message
    return is_of_hudi or cause.error_class.rpartition(".")[2] in CONFLICTS


def splits(record: ShardRecord, failure: Failure, min_inputs: int = 2) -> bool:
    """Whether a shard that failed by this cause is split, not FAILED; one with fewer than ``min_inputs`` never is."""
    if outgrown(failure):
        isolates = record.isolate > 1
    else:
        may_be_by_input = failure.by_input and bool(failure.files or failure.error_class not in NEVER_BY_INPUT)
        isolates = record.isolate > 0 and may_be_by_input
    # Three kinds of shards are never split: those with a winner, whose staged rows need only be published; those that
    # are done again, whose pieces would publish beside the earlier output; and those whose script may have committed
    # directly, under the shard's id, which the pieces would repeat.
    return isolates and record.object_count >= min_inputs and not (record.winner or record.redone or failure.direct)


def is_conclusive(record: ShardRecord, failure: Failure) -> bool:
    """Whether a shard is to be split without further attempts.

    That is so if it lacks memory or time, or if it was itself split off a shard and fails with the same class again.
    """
    is_same_again = record.part.startswith(OF_SPLIT) and bounded_failure(failure).error_class == record.error_class
    return splits(record, failure, 1 if is_same_again else 2) and (is_same_again or outgrown(failure))


def refusal(record: Record, attempt_id: str, now_s: float, is_for_another: bool = False) -> ClaimStatus | None:
    """The answer to a claim that leaves the record as it is; None if the claim changes the record.

    It changes the record if it can be granted, or if no attempt is left. ``is_for_another`` means that the record waits
    for another engine, or for a check.

    LedgerError if an attempt that has ended claims again.
    """
    if record.state.ended:
        return ClaimStatus.DONE
    if record.attempt_id == attempt_id:
        if record.state is ShardState.RUNNING:
            return ClaimStatus.GRANTED  # the attempt repeats its claim, whose answer was lost
        # With the same id, a late repetition of what the ended attempt reported would count for the new claim.
        raise LedgerError(f"attempt {attempt_id} of {name_of(record)} has ended; claim with a new attempt id")
    return ClaimStatus.HELD if is_for_another or is_held(record, now_s) else None


def last_failure(
    record: Record, never_started: str = "its message became a dead-letter message before any attempt"
) -> Failure:
    """The failure that ends a shard or task without a further attempt.

    It is the lost attempt's, or the last one that is recorded; ``never_started`` is its text if no attempt began.
    """
    if record.state is ShardState.RUNNING:
        return expired_failure(record)
    if record.attempts == 0:
        return Failure("NeverStarted", never_started, retryable=False)
    why = record.error_message or "its message became a dead-letter message"
    return Failure(record.error_class or "DeadLetter", why, retryable=False)


def expired_failure(record: Record) -> Failure:
    """The failure of an attempt whose lease expired without a result; it also names the cause of the attempt before."""
    message = _lost_text(record)
    # Of several lost attempts in a row only the last is named: else each message would contain the one before.
    if record.error_class and record.error_class != LEASE_EXPIRED:
        message += f"; the attempt before it: {record.error_class}: {record.error_message}"
    return bounded_failure(Failure(LEASE_EXPIRED, message))


def lost_worker(record: ShardRecord, now_s: float) -> str:
    """Which attempt at an open shard was lost, and when, as a text; "" if none was lost."""
    if record.state is ShardState.RUNNING and record.lease_end_s < now_s:
        return _lost_text(record)
    return record.error_message if record.error_class == LEASE_EXPIRED and not record.state.ended else ""


def last_cause(record: ShardRecord) -> str:
    """The cause of the last failed attempt, as a text to append to another reason; "" if none failed."""
    return f"; its last attempt: {record.error_class}: {record.error_message}" if record.error_class else ""


def _lost_text(record: Record) -> str:
    lease_end = datetime.fromtimestamp(record.lease_end_s, UTC)
    why = "killed, out of memory or cut off"
    return f"attempt {record.attempt_id} was lost, its lease ended at {lease_end:%H:%M:%S} UTC: {why}"


def not_owned(record: Record, attempt_id: str) -> LeaseLostError:
    """The error of an attempt that changes a shard or a task that it does not own."""
    owner = f"{record.state} by attempt {record.attempt_id or '(none)'}"
    winner = getattr(record, "winner", "")
    winner_text = f", and attempt {winner} has won" if winner not in ("", attempt_id) else ""
    return LeaseLostError(f"attempt {attempt_id} does not own {name_of(record)}: it is {owner}{winner_text}")


def name_of(record: Record) -> str:
    """The name of a shard or task in messages."""
    if isinstance(record, ShardRecord):
        return f"shard {record.number} of run {record.run_id}"
    return f"task {record.task_id}" if isinstance(record, TaskRecord) else "a record"


def status_of(run: Run) -> str:
    """A run's status, in words."""
    return "being cancelled" if run.cancelled_s is not None and not run.state.ended else str(run.state)
