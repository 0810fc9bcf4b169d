"""Task requests of the asynchronous API: how an attempt claims, executes and records one, and sends its notice.

Each write is conditional on the record's revision. So a request that succeeded never runs again, and a message whose
request another attempt holds comes back after its lease, which lasts to the end of the invocation.
"""

import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

from sparklet.errors import LeaseLostError, LedgerError, NoticeError
from sparklet.events import Outcome, Task
from sparklet.ledger.rules import LEASE_GRACE_S, LOG_STREAM_BYTES, bounded_failure, cut, is_held, task_failure
from sparklet.model import ClaimStatus, Failure, Notice, ShardResult, TaskRecord
from sparklet.ports import Clock, Notifier, TaskQueue, TaskStore
from sparklet.worker.attempt import Attempt, return_message

MAX_ATTEMPTS = 3
CLAIM_TRIES = 5


class TaskExecutor(Protocol):
    """Does what a task request asks for."""

    def execute_task(self, attempt: Attempt) -> ShardResult:
        """The result; raises SparkletError if it fails."""


@dataclass
class RequestClaims:
    """Claims task requests."""

    tasks: TaskStore
    notifier: Notifier | None  # None: notices are not configured
    open_queue: Callable[[str], TaskQueue]  # by ARN: each API has a queue of its own
    executor: TaskExecutor
    clock: Clock
    log_stream: str = ""
    max_attempts: int = MAX_ATTEMPTS
    _queues: dict[str, TaskQueue] = field(default_factory=dict)

    def claim(self, attempt: Attempt) -> "ClaimedRequest | Outcome":
        """The task's request; an outcome if it has ended or another attempt has it."""
        status, record = self._claim(attempt)
        attempt.log.info("claim answered", status=status, attempts=record.attempts)
        if status is ClaimStatus.GRANTED:
            return ClaimedRequest(self, attempt, record)
        if status is ClaimStatus.HELD:
            return self._reject(attempt, record)
        if status is ClaimStatus.EXHAUSTED:
            self.notify(record, attempt)
        answer = {"task": record.task_id, "claim": str(status), "state": str(record.state)}
        return Outcome(attempt.task, answer=answer)

    def queue_of(self, task: Task) -> TaskQueue | None:
        """The queue that the message names."""
        arn = task.request.queue_arn if task.request else ""
        if arn and arn not in self._queues:
            self._queues[arn] = self.open_queue(arn)
        return self._queues.get(arn)

    def _claim(self, attempt: Attempt) -> tuple[ClaimStatus, TaskRecord]:
        request = attempt.task.request
        assert request is not None
        for _ in range(CLAIM_TRIES):
            was = self.tasks.get_task(request.task_id)
            now_s = self.clock.now_s()  # which that answer has set
            record = was or TaskRecord(request.task_id, accepted_s=request.accepted_s)
            if record.state.ended:
                return ClaimStatus.DONE, record
            if is_held(record, now_s):
                mine = record.attempt_id == attempt.attempt_id  # claimed by a write whose answer was lost
                return ClaimStatus.GRANTED if mine else ClaimStatus.HELD, record
            if record.attempts >= self.max_attempts:
                status, record = ClaimStatus.EXHAUSTED, record.failed(task_failure(record), now_s)
            else:
                lease_s, stream = attempt.deadline.end_s - now_s, cut(self.log_stream, LOG_STREAM_BYTES)
                status, record = ClaimStatus.GRANTED, record.claimed(attempt.attempt_id, now_s, lease_s, stream)
            if self.tasks.replace_task(record, was):
                return status, record
        raise LedgerError(f"task {request.task_id} changed under {CLAIM_TRIES} claims; try again")

    def _reject(self, attempt: Attempt, record: TaskRecord) -> Outcome:
        """Delay the message until the other attempt's lease and grace are over."""
        wait_s = record.lease_end_s + LEASE_GRACE_S - self.clock.now_s()
        return_message(self, attempt, max(1.0, wait_s) + random.uniform(0, 5))
        held = LeaseLostError(f"task {record.task_id} is held by attempt {record.attempt_id}")
        return Outcome(attempt.task, held, acknowledged=False)

    def notify(self, record: TaskRecord, attempt: Attempt) -> None:
        """Send the notice of a request's end; a notice that cannot be sent is only logged."""
        if self.notifier is None:
            return
        try:
            self.notifier.notify(Notice.of_task(record))
        except NoticeError as error:
            attempt.log.error("a notice was not sent", error=str(error))


@dataclass
class ClaimedRequest:
    """A task request that one attempt owns."""

    claims: RequestClaims
    attempt: Attempt
    record: TaskRecord
    kind: str = "task"
    lease: AbstractContextManager[None] = field(default_factory=nullcontext)

    def __post_init__(self) -> None:
        self.attempts = self.record.attempts

    def execute(self) -> ShardResult:
        """Run its script."""
        if self.attempt.task.problem is not None:
            raise self.attempt.task.problem
        return self.claims.executor.execute_task(self.attempt)

    def succeed(self, result: ShardResult) -> None:
        """Record SUCCEEDED."""
        self._replace(self.record.succeeded(result, self.claims.clock.now_s()))

    def is_final(self, failure: Failure) -> bool:
        """Whether no attempt can help or none is left."""
        return not failure.retryable or self.attempts >= self.claims.max_attempts

    def fail(self, failure: Failure, *, final: bool) -> str:
        """Record FAILED, or PENDING for another attempt, never elsewhere."""
        change = self.record.failed if final else self.record.released
        self._replace(change(bounded_failure(failure), self.claims.clock.now_s()))
        return ""

    def succeeded(self, result: ShardResult) -> Outcome:
        """Notify."""
        self.claims.notify(self.record, self.attempt)
        answer = {"task": self.record.task_id, "state": str(self.record.state), "rows": result.rows}
        return Outcome(self.attempt.task, answer=answer)

    def failed(self, *, final: bool) -> None:
        """Notify, if this is its end."""
        if final:
            self.claims.notify(self.record, self.attempt)

    def _replace(self, after: TaskRecord) -> None:
        was = self.record
        if not self.claims.tasks.replace_task(after, was):
            raise LeaseLostError(f"attempt {was.attempt_id} does not own task {was.task_id} any more")
        self.record = after
