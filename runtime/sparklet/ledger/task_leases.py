"""Who may change a task's record: the attempt that holds its lease, or anybody once the lease is over."""

from collections.abc import Callable
from dataclasses import replace

from sparklet.errors import LeaseLostError, LedgerError
from sparklet.ledger.rules import bounded_failure, is_held, task_failure
from sparklet.model import Failure, ShardState, TaskRecord
from sparklet.ports import TaskStore


def write_over(tasks: TaskStore, after: TaskRecord, was: TaskRecord) -> TaskRecord:
    """Replace ``was``, or a renewal of it by the same attempt; LeaseLostError if another attempt owns the task."""
    while not tasks.replace_task(after, was):
        stands = tasks.get_task(was.task_id)
        if not stands or (stands.attempt_id, stands.state) != (was.attempt_id, ShardState.RUNNING):
            raise LeaseLostError(f"attempt {was.attempt_id} does not own task {was.task_id} any more")
        was, after = stands, replace(after, revision=stands.revision + 1)
    return after


def give_up(
    tasks: TaskStore,
    task: TaskRecord,
    now_s: Callable[[], float],
    failure: Failure | None = None,
    lost: Callable[[TaskRecord], bool] = lambda record: False,
) -> TaskRecord | None:
    """Record FAILED for a task that nobody delivers any more; None if it has ended.

    ``task`` stands for one that was never recorded; ``failure`` None: the last known cause; ``lost``: whether the
    attempt is known to have ended. LeaseLostError if an attempt holds it, LedgerError if one changes it meanwhile.
    """
    was = tasks.get_task(task.task_id)
    record, at_s = was or task, now_s()  # which that answer has set
    if record.state.ended:
        return None
    if is_held(record, at_s) and not lost(record):
        raise LeaseLostError(f"attempt {record.attempt_id} still holds task {task.task_id}")
    failed = record.failed(bounded_failure(failure or task_failure(record)), at_s)
    if not tasks.replace_task(failed, was):
        raise LedgerError(f"task {task.task_id} changed while it was given up")
    return failed
