"""Task requests of the asynchronous API: how an attempt claims, executes and records a request, and sends its notice.

A request that succeeded never runs again. If another attempt holds the request, the message comes back after that
attempt's lease, which lasts until the end of its invocation.
"""

import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

from sparklet.errors import LeaseLostError, NoticeError
from sparklet.events import Outcome, Task
from sparklet.ledger import transitions
from sparklet.ledger.rules import LEASE_GRACE_S
from sparklet.model import ClaimStatus, ExecutionResult, Failure, Notice, ShardResult, TaskRecord
from sparklet.ports import Ledger, Notifier, TaskQueue
from sparklet.worker.attempt import Attempt, return_message

MAX_ATTEMPTS = 3


class TaskExecutor(Protocol):
    """Does what a task request asks for."""

    def execute_task(self, attempt: Attempt) -> ExecutionResult:
        """Run the task's script and return the result. Raises SparkletError if the script fails."""


@dataclass
class RequestClaims:
    """Claims task requests."""

    ledger: Ledger
    notifier: Notifier | None  # None if notices are not configured
    open_queue: Callable[[str], TaskQueue]  # opens a queue by its ARN: each API has its own queue
    executor: TaskExecutor
    log_stream: str = ""
    max_attempts: int = MAX_ATTEMPTS
    _queues: dict[str, TaskQueue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock = self.ledger.clock

    def claim(self, attempt: Attempt) -> "ClaimedRequest | Outcome":
        """Claim the task's request; return an outcome if the request has ended or another attempt holds it."""
        request = attempt.task.request
        assert request is not None
        task = TaskRecord(request.task_id, accepted_s=request.accepted_s)
        # The claim lasts until the deadline and is not renewed: no work outlives the invocation.
        terms = attempt.attempt_id, attempt.deadline.end_s, self.max_attempts, self.log_stream
        claim = self.ledger.tasks.claim(task, *terms)
        attempt.log.info("claim answered", status=claim.status, attempts=claim.record.attempts)
        if claim.status is ClaimStatus.GRANTED:
            return ClaimedRequest(self, attempt, claim.record)
        if claim.status is ClaimStatus.HELD:
            return self._reject(attempt, claim.record)
        if claim.status is ClaimStatus.EXHAUSTED:
            # The last attempt was lost before it could send the notice.
            self.notify(claim.record, attempt)
        answer = {"task": task.task_id, "claim": str(claim.status), "state": str(claim.record.state)}
        return Outcome(attempt.task, answer=answer)

    def queue_of(self, task: Task) -> TaskQueue | None:
        """The queue that the message names."""
        arn = task.request.queue_arn if task.request else ""
        if arn and arn not in self._queues:
            self._queues[arn] = self.open_queue(arn)
        return self._queues.get(arn)

    def _reject(self, attempt: Attempt, record: TaskRecord) -> Outcome:
        """Delay the message until the other attempt's lease and grace are over."""
        wait_s = record.lease_end_s + LEASE_GRACE_S - self.clock.now_s()
        return_message(self, attempt, max(1.0, wait_s) + random.uniform(0, 5))
        held = LeaseLostError(f"task {record.task_id} is held by attempt {record.attempt_id}")
        return Outcome(attempt.task, held, acknowledged=False)

    def notify(self, record: TaskRecord, attempt: Attempt) -> None:
        """Send the notice that a request has ended; a notice that cannot be sent is only logged."""
        if self.notifier is None:
            return
        try:
            self.notifier.notify(Notice.of_task(record))
        # The result is recorded; an error here would hide it from the caller.
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

    def execute(self) -> ShardResult:
        """Run the request's script."""
        if self.attempt.task.problem is not None:
            raise self.attempt.task.problem
        outcome = self.claims.executor.execute_task(self.attempt).outcome
        return ShardResult(outcome.rows, outcome.output_bytes, outcome.outputs, outcome.answer)

    def succeed(self, result: ShardResult) -> None:
        """Record SUCCEEDED."""
        self.record = self.claims.ledger.tasks.apply(self.record, transitions.succeed, result)

    def is_final(self, failure: Failure) -> bool:
        """Whether no attempt can help or none is left."""
        return not failure.retryable or self.record.attempts >= self.claims.max_attempts

    def fail(self, failure: Failure, *, final: bool) -> str:
        """Record FAILED, or PENDING if it is not ``final``; return "": only the next delivery continues it."""
        transition = transitions.fail if final else transitions.release
        self.record = self.claims.ledger.tasks.apply(self.record, transition, failure)
        return ""

    def succeeded(self, result: ShardResult) -> Outcome:
        """Send the notice and return the outcome."""
        self.claims.notify(self.record, self.attempt)
        answer = {"task": self.record.task_id, "state": str(self.record.state), "rows": result.rows}
        return Outcome(self.attempt.task, answer=answer)

    def failed(self, *, final: bool) -> None:
        """Send the notice if the failure is final."""
        if final:
            self.claims.notify(self.record, self.attempt)
