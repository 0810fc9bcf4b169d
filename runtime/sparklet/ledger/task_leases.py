"""Tasks of the asynchronous API, and who may change one: who holds its lease, or anybody once the lease is over."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from sparklet.errors import LeaseLostError, LedgerError
from sparklet.ledger import items
from sparklet.ledger.rules import bounded_failure, is_held, task_failure
from sparklet.ledger.store import Store
from sparklet.model import Failure, TaskRecord


class TaskStore(Protocol):
    """Tasks of the asynchronous API; writes are conditional, as in a ``Ledger``. Every method raises LedgerError."""

    def get_task(self, task_id: str) -> TaskRecord | None:
        """A task (strongly consistent); None if no attempt at one of that id was ever recorded."""

    def replace_task(self, record: TaskRecord, was: TaskRecord | None) -> bool:
        """Put ``record`` in the place of ``was`` (None: nothing yet); False if that has changed since."""


class Tasks:
    """A ``TaskStore`` in the ledger's store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get_task(self, task_id: str) -> TaskRecord | None:
        """A task."""
        item = self._store.get(items.task_key(task_id))
        return items.task_record(item) if item else None

    def get_tasks(self, task_ids: Iterable[str]) -> Iterator[TaskRecord]:
        """Those of these tasks that were ever recorded (strongly consistent), in any order."""
        return map(items.task_record, self._store.get_many(map(items.task_key, task_ids)))

    def replace_task(self, record: TaskRecord, was: TaskRecord | None) -> bool:
        """Swap a task."""
        return self._store.write(items.task_change(record, was)).applied


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
