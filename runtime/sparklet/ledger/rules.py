"""The transitions' rules: how long a lease binds, who may claim, what fits into an item, the texts of refusals."""

import json
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any

from sparklet.errors import LeaseLostError, LedgerError
from sparklet.model import OF_SPLIT, ClaimStatus, Failure, Record, Run, ShardRecord, ShardResult, ShardState, TaskRecord
from sparklet.model.redaction import redacted

LEASE_S = 16.0  # an attempt owns a shard so long without a renewal, or longer; see docs/decisions/0079
RENEWALS_PER_S = 500  # of one run: half of what a partition of DynamoDB takes
LEASE_GRACE_S = 5.0  # clocks differ: a claim takes a lease over only so long after its end
LEASE_EXPIRED = "LeaseExpired"  # the cause of an attempt whose worker was lost
OUTGROWN = frozenset({"OutOfMemoryError", "MemoryError", "TooLargeError", "DeadlineExceededError", LEASE_EXPIRED})
"""Causes that a worker with more memory and time does not have."""
CONFLICTS = frozenset(
    {
        *("ConcurrentAppendException", "ConcurrentDeleteDeleteException", "ConcurrentDeleteReadException"),  # Delta
        *("ConcurrentTransactionException", "ConcurrentWriteException"),
        *("MetadataChangedException", "ProtocolChangedException"),  # also where two make one table at once
        *("CommitFailedException", "HoodieLockException", "HoodieWriteConflictException"),  # Iceberg, Hudi
    }
)
"""Causes that are conflicts of two writers of one table, which another attempt may not meet: none is used up."""
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
"""Root causes for which no input is to blame, unless the cause names one."""

# Together the next five keep the largest item of a shard below 1 KB, one write unit of DynamoDB (docs/decisions/0004).
ERROR_CLASS_BYTES = 64
ERROR_MESSAGE_BYTES = WARNING_BYTES = 230
OUTPUTS_BYTES = 170
LOG_STREAM_BYTES = 64
TASK_ANSWER_BYTES = 16 * 1024
TASK_OUTPUTS = 20
TASK_OUTPUT_BYTES = 1024  # of one URI, the longest that S3 has


def cut(text: str, most_bytes: int) -> str:
    """``text`` if its UTF-8 form fits into ``most_bytes``, else its beginning and an ellipsis."""
    encoded = text.encode("utf-8", "replace")  # a lone surrogate becomes "?": no store takes it
    if len(encoded) <= most_bytes:
        return encoded.decode()
    ellipsis = "…"
    return encoded[: most_bytes - len(ellipsis.encode())].decode("utf-8", "ignore") + ellipsis


def bounded_failure(failure: Failure) -> Failure:
    """The part of a failure that fits into a shard's item."""
    message = cut(redacted(failure.message), ERROR_MESSAGE_BYTES)
    return Failure(cut(failure.error_class, ERROR_CLASS_BYTES), message, failure.retryable)


def kept_of(record: Record, result: ShardResult) -> dict[str, Any]:
    """What a record keeps of a result: as many of its first outputs, each whole, as fit into a shard's item.

    A task keeps more, and its answer, but not the cause of an earlier attempt.
    """
    fields: dict[str, Any] = {"rows": result.rows, "output_bytes": result.output_bytes}
    if isinstance(record, TaskRecord):
        encoded = (uri.encode(errors="replace") for uri in result.outputs[:TASK_OUTPUTS])
        fields["outputs"] = tuple(uri.decode() for uri in encoded if len(uri) <= TASK_OUTPUT_BYTES)
        fits = len(json.dumps(result.answer)) <= TASK_ANSWER_BYTES + 2  # the brackets
        return {**fields, "answer": result.answer if fits else (), "error_class": "", "error_message": ""}
    ends = accumulate(len(uri.encode("utf-8", "replace")) for uri in result.outputs)
    fields["outputs"] = result.outputs[: sum(end <= OUTPUTS_BYTES for end in ends)]
    return {**fields, "memory_mb": result.memory_mb, "schemas": result.schemas, "warning": result.warning}


def lease_s(workers: int) -> float:
    """The length of a lease in a run that this many workers may do at once; each renews it twice in that time."""
    return max(LEASE_S, 2 * workers / RENEWALS_PER_S)


def is_held(record: Record, now_s: float) -> bool:
    """Whether an attempt's lease still binds: no other attempt may take its shard or task over or end it."""
    return record.state is ShardState.RUNNING and record.lease_end_s >= now_s - LEASE_GRACE_S


def outgrown(cause: Failure) -> bool:
    """Whether a shard that failed by this cause may succeed in a worker with more memory and time."""
    # The kernel's killer for lack of memory raises no exception: the signal is all that is left to know it by.
    return cause.error_class.rpartition(".")[2] in OUTGROWN or "ended by SIGKILL" in cause.message


def is_conflict(cause: Failure) -> bool:
    """Whether another writer of a table came first."""
    of_hudi = "Cannot resolve conflicts for overlapping writes" in cause.message  # its innermost class is any list's
    return of_hudi or cause.error_class.rpartition(".")[2] in CONFLICTS


def splits(record: ShardRecord, failure: Failure, least: int = 2) -> bool:
    """Whether a shard that failed by this cause is split instead of FAILED: only if it has ``least`` inputs or more."""
    by_input = failure.by_input and bool(failure.files or failure.error_class not in NEVER_BY_INPUT)
    isolates = record.isolate > 1 if outgrown(failure) else record.isolate > 0 and by_input
    # A winner's rows are there and need only be published. Pieces of what is done again would publish beside the
    # earlier output, and halves would repeat what was committed under the shard's own id.
    return isolates and record.object_count >= least and not (record.winner or record.redone or failure.direct)


def is_conclusive(record: ShardRecord, failure: Failure) -> bool:
    """Whether a failure needs no repetition: it has the class of the one for which the shard was split off."""
    again = record.part.startswith(OF_SPLIT) and bounded_failure(failure).error_class == record.error_class
    return splits(record, failure, 1 if again else 2) and (again or outgrown(failure))


def refusal(record: Record, attempt_id: str, now_s: float, elsewhere: bool = False) -> ClaimStatus | None:
    """The answer to a claim that changes nothing; None if it can be granted, or no attempt is left.

    LedgerError if an attempt that has ended claims again.
    """
    if record.state.ended:
        return ClaimStatus.DONE
    if record.attempt_id == attempt_id:
        if record.state is ShardState.RUNNING:
            return ClaimStatus.GRANTED  # also after a lost answer: the claim was mine
        # With the same id, a late repetition of what the ended attempt reported would count for the new claim.
        raise LedgerError(f"attempt {attempt_id} of {named(record)} has ended; claim with an id of its own")
    return ClaimStatus.HELD if elsewhere or is_held(record, now_s) else None


def last_failure(record: Record, never: str = "its message became a dead-letter message before any attempt") -> Failure:
    """The failure that ends a shard or task without a further attempt; ``never`` is its text if none ever began."""
    if record.state is ShardState.RUNNING:
        return expired_failure(record)
    if record.attempts == 0:
        return Failure("NeverStarted", never, retryable=False)
    why = record.error_message or "its message became a dead-letter message"
    return Failure(record.error_class or "DeadLetter", why, retryable=False)


def expired_failure(record: Record) -> Failure:
    """The cause of an attempt whose lease expired without a result, with the cause before it."""
    message = _lost_text(record)
    # Of lost attempts in a row only the last is told, or each message would have the one before it inside.
    if record.error_class and record.error_class != LEASE_EXPIRED:
        message += f"; the attempt before it: {record.error_class}: {record.error_message}"
    return bounded_failure(Failure(LEASE_EXPIRED, message))


def lost_worker(record: ShardRecord, now_s: float) -> str:
    """The lost attempt at an open shard, and its time; "" if none was lost."""
    if record.state is ShardState.RUNNING and record.lease_end_s < now_s:
        return _lost_text(record)
    return record.error_message if record.error_class == LEASE_EXPIRED and not record.state.ended else ""


def last_cause(record: ShardRecord) -> str:
    """The cause of the last failed attempt, to go behind another reason; "" if none failed."""
    return f"; its last attempt: {record.error_class}: {record.error_message}" if record.error_class else ""


def _lost_text(record: Record) -> str:
    since = datetime.fromtimestamp(record.lease_end_s, UTC)
    why = "killed, out of memory or cut off"
    return f"attempt {record.attempt_id} was lost, its lease ended at {since:%H:%M:%S} UTC: {why}"


def not_owned(record: Record, attempt_id: str) -> LeaseLostError:
    """Why an attempt may not change a shard or a task."""
    owner = f"{record.state} by attempt {record.attempt_id or '(none)'}"
    winner = getattr(record, "winner", "")
    won = f", and attempt {winner} has won" if winner not in ("", attempt_id) else ""
    return LeaseLostError(f"attempt {attempt_id} does not own {named(record)}: it is {owner}{won}")


def named(record: Record) -> str:
    """A record in messages."""
    if isinstance(record, ShardRecord):
        return f"shard {record.number} of run {record.run_id}"
    return f"task {record.task_id}" if isinstance(record, TaskRecord) else "a record"


def status_of(run: Run) -> str:
    """A run's status, in words."""
    return "being cancelled" if run.cancelled_s is not None and not run.state.ended else str(run.state)
