"""One attempt at a task: claim → execute → conclude, the same for shards of runs and task requests.

``shards`` and ``task_requests`` implement the steps, ``Claims`` and ``Claimed``. Every write to the ledger is
conditional: an attempt that lost its claim changes nothing.
"""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from sparklet.errors import LeaseLostError, LedgerError, QueueError, ScriptFailedError, SparkletError
from sparklet.events import Outcome, Task
from sparklet.ledger.clock import back_off_s
from sparklet.ledger.rules import ERROR_MESSAGE_BYTES, cut, is_conflict
from sparklet.log import Log
from sparklet.model import Failure, Record, ShardResult, ShardState
from sparklet.ports import Clock, TaskQueue
from sparklet.spark.runner import Deadline

T = TypeVar("T")

BACK_OFF_S, MAX_BACK_OFF_S = 5.0, 300.0
LEDGER_RETRY_S = 1.0
# SQS refuses a longer visibility timeout.
MAX_VISIBILITY_S = 12 * 3600
RENEWAL_ENDS_WITHIN_S = 1.0  # a throttled ledger may delay a running renewal for a minute


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a task: its id, its deadline and its log."""

    attempt_id: str
    task: Task
    deadline: Deadline
    log: Log


class Claimed(Protocol):
    """A shard or a task request that an attempt owns."""

    kind: str  # "shard" or "task", for the log

    @property
    def record(self) -> Record:
        """The shard's or request's record, as this attempt has claimed it."""

    @property
    def lease(self) -> AbstractContextManager[Any]:
        """A context manager that holds the claim while the attempt works."""

    def execute(self) -> ShardResult:
        """Do the work; raises SparkletError if it fails."""

    def succeed(self, result: ShardResult) -> None:
        """Record SUCCEEDED. Raises LedgerError, or LeaseLostError if another attempt owns the record now."""

    def is_final(self, failure: Failure) -> bool:
        """Whether no other attempt follows this one."""

    def fail(self, failure: Failure, *, final: bool) -> str:
        """Record FAILED, or PENDING if it is not ``final``.

        Return words for the log that say who continues the work: an engine's name, or that the checker splits the
        shard. Return "" if the next delivery of the message continues it, and if nobody does.
        """

    def succeeded(self, result: ShardResult) -> Outcome:
        """Do what follows a recorded success, and return the outcome."""

    def failed(self, *, final: bool) -> None:
        """Do what follows a recorded failure."""


class Claims(Protocol):
    """Claims shards or task requests in one ledger."""

    clock: Clock

    def claim(self, attempt: Attempt) -> Claimed | Outcome:
        """Claim the task's shard or request; return an outcome if there is nothing to do. Raises LedgerError."""

    def queue_of(self, task: Task) -> TaskQueue | None:
        """The queue of the task's message; None if the queue is unknown. Raises QueueError."""


def make_attempt(claims: Claims, attempt: Attempt) -> Outcome:
    """Claim, execute and record the task's shard or request; give its message back if another attempt may help."""
    try:
        claimed = claims.claim(attempt)
    except LedgerError as error:
        attempt.log.error("the ledger could not be asked for the claim", error=str(error))
        return_message(claims, attempt, back_off_s(attempt.task.receive_count, BACK_OFF_S, MAX_BACK_OFF_S))
        return Outcome(attempt.task, error, acknowledged=False)
    if isinstance(claimed, Outcome):
        return claimed
    try:
        # The lease is also held while the result is recorded: else a slow ledger would make the worker look lost.
        with claimed.lease:
            result = claimed.execute()
            persist(partial(claimed.succeed, result), claims.clock, attempt)
    except SparkletError as error:
        return _conclude_failure(claims, claimed, attempt, error)
    attempt.log.info(f"{claimed.kind} succeeded", rows=result.rows)
    return claimed.succeeded(result)


def _conclude_failure(claims: Claims, claimed: Claimed, attempt: Attempt, error: SparkletError) -> Outcome:
    """Record FAILED if no attempt can help or none is left; else record PENDING and delay the message."""
    task, log = attempt.task, attempt.log
    # Another attempt owns the record now, so nothing is written. The message comes back, and its claim will return the
    # record's state.
    if isinstance(error, LeaseLostError):
        log.error("the lease was lost; what this attempt did does not count", error=str(error))
        return Outcome(task, error, acknowledged=False)
    # The failure cannot be recorded, since that needs the same ledger. Once the lease has ended, another attempt can
    # claim.
    if isinstance(error, LedgerError) and error.retryable:
        log.error("the ledger did not answer; the lease will expire", error=str(error))
        return Outcome(task, error, acknowledged=False)
    failure = failure_of(error)
    final = claimed.is_final(failure)
    try:
        successor = persist(lambda: claimed.fail(failure, final=final), claims.clock, attempt)
    # Without a recorded failure, too, the work goes on: the message comes back, or a check finds the lease expired.
    except (LedgerError, LeaseLostError) as refusal:
        log.error("the failure could not be recorded", error=str(refusal), cause=failure.message)
        return Outcome(task, error, acknowledged=False)
    claimed.failed(final=final and not successor)
    cause = {"error_class": failure.error_class, "cause": failure.message}
    if successor:
        log.warning(f"attempt failed, {claimed.kind} goes on", by=successor, **cause)
        # The message is acknowledged: the successor does not need it, and its claim could only be HELD.
        return Outcome(task, answer={"state": str(ShardState.PENDING), "by": successor})
    if final:
        log.error(f"{claimed.kind} failed", **cause)
    else:
        why = "another writer came first" if is_conflict(failure) else "attempt failed"
        log.warning(f"{why}, {claimed.kind} released", **cause)
        return_message(claims, attempt, back_off_s(claimed.record.attempts, BACK_OFF_S, MAX_BACK_OFF_S))
    return Outcome(task, error, acknowledged=final)


def persist(write: Callable[[], T], clock: Clock, attempt: Attempt) -> T:
    """Write to the ledger; retry while it does not answer, until shortly before the attempt's deadline."""
    while True:
        try:
            return write()
        except LedgerError as error:
            # A result that is not recorded would be computed once more, so only the deadline ends the retries. A lost
            # lease has set ``end_s`` to 0, which ends them as well.
            if not error.retryable or clock.now_s() + 2 * LEDGER_RETRY_S > attempt.deadline.end_s:
                raise
            attempt.log.warning("the ledger did not answer; trying again", error=str(error))
            clock.sleep(LEDGER_RETRY_S)


def return_message(claims: Claims, attempt: Attempt, delay_s: float) -> None:
    """Make the task's message visible again in ``delay_s`` instead of after its visibility timeout."""
    if not attempt.task.receipt:
        return
    try:
        if queue := claims.queue_of(attempt.task):
            queue.set_visibility(attempt.task.receipt, round(min(delay_s, MAX_VISIBILITY_S)))
    # Only time is lost: the message becomes visible by itself after its visibility timeout.
    except QueueError as error:
        attempt.log.warning("the message comes back after its full visibility timeout", error=str(error))


def failure_of(error: SparkletError) -> Failure:
    """What the ledger records of an error: the script's root cause with its line, or the error itself."""
    if isinstance(error, ScriptFailedError) and error.cause_class:
        where = f" ({error.place}; exit code {error.exit_code})" if error.place else f" (exit code {error.exit_code})"
        # Both must fit into the item. The cause is cut, since a part of it is still of use; a part of a place is not.
        cause = cut(error.cause, ERROR_MESSAGE_BYTES - len(where.encode()))
        return Failure(error.cause_class, f"{cause}{where}", error.retryable, error.files, True, error.direct)
    by_input = isinstance(error, ScriptFailedError) or bool(error.files)
    return Failure(type(error).__name__, str(error), error.retryable, error.files, by_input, error.direct)


@dataclass
class Lease:
    """Holds a shard while the block runs; a thread renews the lease each time that half of it is over.

    A killed worker renews nothing, so another attempt can claim its shard after seconds. If the ledger is slow or
    throttled, the attempt goes on. If the ledger refuses a renewal, another attempt owns the shard: then the deadline
    expires, which stops the script, and an error of the block becomes LeaseLostError.
    """

    renew: Callable[[ShardResult | None], None]  # a result makes this attempt the winner; may raise LeaseLostError
    clock: Clock
    deadline: Deadline
    log: Log
    lease_s: float  # the lease's length
    end_s: float  # when the current lease ends, by ``clock``
    lost: LeaseLostError | None = None
    _done: threading.Event = field(default_factory=threading.Event, init=False)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._renew_until_done, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join(RENEWAL_ENDS_WITHIN_S)  # a renewal that is still running does no harm
        # If the block raised no error, ``lost`` means nothing: a renewal just after ``succeed`` is refused as well. An
        # error that is not a SparkletError is a bug, and is not replaced.
        if self.lost and isinstance(error, SparkletError):
            raise self.lost from error

    def check(self) -> None:
        """Raise LeaseLostError if another attempt owns the shard; a lease that has ended is renewed first."""
        # The thread does not run while Lambda freezes the environment, so the lease may have ended unnoticed.
        if self.clock.now_s() >= self.end_s:
            self._renew()
        if self.lost:
            raise self.lost

    def extend(self, winner: ShardResult | None = None) -> None:
        """Renew the lease; with ``winner``, also record for good that this attempt won, with this result.

        Raises LeaseLostError if another attempt owns the shard.
        """
        # The time is taken before the request, so that this lease ends no later than the ledger's.
        started_s = self.clock.now_s()
        self.renew(winner)
        self.end_s = started_s + self.lease_s

    def _renew_until_done(self) -> None:
        while not self._done.wait(self.lease_s / 2) and not self.lost:
            self._renew()

    def _renew(self) -> None:
        try:
            self.extend()
        except LeaseLostError as error:
            self.lost = error
            # Without a grace period: in it the script could still commit, while another attempt owns the shard.
            self.deadline.expire(str(error), at_once=True)
            self.log.error("the lease is lost; the script is stopped", error=str(error))
        except LedgerError as error:
            self.log.warning("the lease could not be renewed; the work goes on", error=str(error))
