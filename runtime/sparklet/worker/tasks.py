"""A task of the asynchronous API on its way through a worker: claim → run → succeed, fail or release, then tell.

Each step is fenced by the task's revision, so a message that is delivered twice, also to two workers at one time, is
run once: what has succeeded is never run again, and what another attempt holds comes back when its lease is over.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from sparklet.errors import LeaseLostError, LedgerError, NoticeError, QueueError, SparkletError
from sparklet.events import Order, Outcome, Task
from sparklet.ledger_rules import LEASE_GRACE_S, LOG_STREAM_BYTES, bounded_failure, cut, is_held, task_failure
from sparklet.model import ClaimStatus, Notice, ShardResult, TaskRecord
from sparklet.ports import Clock, Notifier, TaskQueue, TaskStore
from sparklet.worker.guards import Deadline
from sparklet.worker.log import Log
from sparklet.worker.verdicts import back_off_s, come_back, failure_of, persist

MOST_ATTEMPTS = 3
CLAIM_TRIES = 5

Run = Callable[[Task, str, Deadline, Log], ShardResult]


@dataclass
class TaskDesk:
    """Does tasks of the asynchronous API: everything that stands between a message and what the API says of it."""

    tasks: TaskStore
    notifier: Notifier | None  # None: nobody wants to hear
    open_queue: Callable[[str], TaskQueue] | None  # by ARN: each API has a queue of its own
    run: Run
    clock: Clock
    grace_s: float  # between the guard's deadline and the function's own
    log_stream: str = ""
    _queues: dict[str, TaskQueue] = field(default_factory=dict)

    def do(self, task: Task, order: Order, attempt_id: str, deadline: Deadline, log: Log) -> Outcome:
        """Bring the task to its end, or say when it should come back."""
        try:
            status, record = self._claim(order, attempt_id, deadline)
        except LedgerError as error:
            log.error("the ledger could not be asked for the task", error=str(error))
            self._come_back(task, order, back_off_s(task.receive_count), log)
            return Outcome(task, error, acknowledged=False)
        log.info("claim answered", status=status, attempts=record.attempts)
        if status is ClaimStatus.GRANTED:
            return self._granted(task, order, record, deadline, log)
        if status is ClaimStatus.HELD:
            return self._held(task, order, record, log)
        if status is ClaimStatus.EXHAUSTED:
            self._tell(record, log)
        return Outcome(task, answer={"task": order.task_id, "claim": str(status), "state": str(record.state)})

    def put_back(self, task: Task, order: Order, log: Log) -> None:
        """Make the message of a task that was not claimed visible again."""
        self._come_back(task, order, 0, log)

    def _claim(self, order: Order, attempt_id: str, deadline: Deadline) -> tuple[ClaimStatus, TaskRecord]:
        for _ in range(CLAIM_TRIES):
            now_s = self.clock.now_s()
            was = self.tasks.get_task(order.task_id)
            record = was or TaskRecord(order.task_id, accepted_s=order.accepted_s)
            if record.state.ended:
                return ClaimStatus.DONE, record
            if is_held(record, now_s):
                return ClaimStatus.HELD, record
            if record.attempts >= MOST_ATTEMPTS:
                status, record = ClaimStatus.EXHAUSTED, record.failed(task_failure(record), now_s)
            else:
                lease_s, stream = self._function_end_s(deadline) - now_s, cut(self.log_stream, LOG_STREAM_BYTES)
                status, record = ClaimStatus.GRANTED, record.claimed(attempt_id, now_s, lease_s, stream)
            if self.tasks.replace_task(record, was):
                return status, record
        raise LedgerError(f"task {order.task_id} changed under {CLAIM_TRIES} claims; try again")

    def _granted(self, task: Task, order: Order, record: TaskRecord, deadline: Deadline, log: Log) -> Outcome:
        try:
            if task.problem is not None:
                raise task.problem
            result = self.run(task, record.attempt_id, deadline, log)
        except SparkletError as error:
            return self._not_done(task, order, record, error, deadline, log)
        done = record.succeeded(result, self.clock.now_s())
        if problem := self._persist(done, record, deadline, log):
            if not problem.retryable:  # of what the ledger was told, not of the task: another write may say so
                return self._not_done(task, order, record, problem, deadline, log)
            return Outcome(task, problem, acknowledged=False)
        log.info("task succeeded", rows=result.rows)
        self._tell(done, log)
        return Outcome(task, answer={"task": order.task_id, "state": str(done.state), "rows": result.rows})

    def _not_done(
        self, task: Task, order: Order, record: TaskRecord, error: SparkletError, deadline: Deadline, log: Log
    ) -> Outcome:
        """FAILED if no attempt can help or none is left, else PENDING and the message back after a while."""
        failure = bounded_failure(failure_of(error))
        final = not error.retryable or record.attempts >= MOST_ATTEMPTS
        after = (record.failed if final else record.released)(failure, self.clock.now_s())
        if problem := self._persist(after, record, deadline, log):
            return Outcome(task, problem, acknowledged=False)
        log.error(
            "task failed" if final else "attempt failed, task released",
            error_class=failure.error_class,
            cause=failure.message,
        )
        if final:
            self._tell(after, log)
        else:
            self._come_back(task, order, back_off_s(record.attempts), log)
        return Outcome(task, error, acknowledged=final)

    def _held(self, task: Task, order: Order, record: TaskRecord, log: Log) -> Outcome:
        """Another attempt has the task: the message comes back once its lease, and the grace after it, are over."""
        wait_s = record.lease_end_s + LEASE_GRACE_S - self.clock.now_s()
        self._come_back(task, order, max(1.0, wait_s) + random.uniform(0, 5), log)
        held = LeaseLostError(f"task {record.task_id} is held by attempt {record.attempt_id}")
        return Outcome(task, held, acknowledged=False)

    def _persist(self, after: TaskRecord, was: TaskRecord, deadline: Deadline, log: Log) -> SparkletError | None:
        """Record what became of the attempt; why that could not be done."""

        def write() -> None:
            if not self.tasks.replace_task(after, was):
                raise LeaseLostError(f"attempt {was.attempt_id} does not own task {was.task_id} any more")

        try:
            persist(write, self.clock, self._function_end_s(deadline), log)
        except (LedgerError, LeaseLostError) as error:
            log.error("what this attempt did could not be recorded and does not count", error=str(error))
            return error
        return None

    def _tell(self, record: TaskRecord, log: Log) -> None:
        """What is recorded stands, whether anybody could be told of it or not."""
        if self.notifier is None:
            return
        try:
            self.notifier.notify(Notice.of_task(record))
        except NoticeError as error:
            log.error("a notice was not sent", error=str(error))

    def _come_back(self, task: Task, order: Order, delay_s: float, log: Log) -> None:
        if self.open_queue is None or not order.queue_arn:
            return
        try:
            if order.queue_arn not in self._queues:
                self._queues[order.queue_arn] = self.open_queue(order.queue_arn)
        except QueueError as error:
            log.warning("the message comes back after its full visibility timeout", error=str(error))
            return
        come_back(self._queues[order.queue_arn], task, delay_s, log)

    def _function_end_s(self, deadline: Deadline) -> float:
        return deadline.end_s + self.grace_s
