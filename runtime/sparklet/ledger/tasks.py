"""Tasks of the asynchronous API, and calls of ``functions``: their transitions, written by swaps.

``claim`` and ``give_up`` read nothing: they presume that the task was never recorded, which is the most frequent case.
"""

from collections.abc import Callable, Iterable, Iterator

from sparklet.ledger import items, transitions
from sparklet.ledger.clock import Clock
from sparklet.ledger.store import Item, Store, Swaps
from sparklet.model import Claim, Failure, ShardResult, TaskRecord


class Tasks(Swaps[TaskRecord]):
    """Tasks, one by one. Every method raises LedgerError; LeaseLostError if another attempt owns the task."""

    def __init__(self, store: Store, clock: Clock) -> None:
        super().__init__(store, clock, items.task_change, _task_record)

    def get_many(self, task_ids: Iterable[str]) -> Iterator[TaskRecord]:
        """The records of these tasks (strongly consistent), in any order; a task that was never recorded has none."""
        return map(items.task_record, self._store.get_many(map(items.task_key, task_ids)))

    def claim(
        self, task: TaskRecord, attempt_id: str, end_s: float, max_attempts: int, log_stream: str = ""
    ) -> Claim[TaskRecord]:
        """Claim a task for an attempt until ``end_s``, and count the attempt.

        ``task`` is the record to begin with if the ledger has none. As with shards, the same attempt id is GRANTED
        again. If no attempt is left, the claim is EXHAUSTED and the task becomes FAILED.
        """

        def decide(record: TaskRecord) -> Claim[TaskRecord]:
            now_s = self._clock.now_s()
            return transitions.claim_task(record, attempt_id, now_s, end_s - now_s, max_attempts, log_stream)

        return self._decide_claim(decide, task)

    def apply(
        self, mine: TaskRecord, transition: Callable[..., TaskRecord], result: ShardResult | Failure
    ) -> TaskRecord:
        """Make a transition (succeed, fail, release) of the task that an attempt has claimed; return the new record."""
        return self._change(lambda record: (transition(record, mine.attempt_id, self._clock.now_s(), result),), mine)

    def give_up(
        self, task: TaskRecord, failure: Failure | None = None, is_lost: Callable[[TaskRecord], bool] = lambda _: False
    ) -> Claim[TaskRecord]:
        """End a task that will not be delivered again: it is FAILED, and the claim EXHAUSTED; DONE if it had ended.

        ``task`` is the record to begin with if the ledger has none. Without a ``failure`` the task's last known cause
        is kept. ``is_lost`` returns whether the attempt of a RUNNING task is known to have ended; LeaseLostError if an
        attempt still holds the task.
        """

        def decide(record: TaskRecord) -> Claim[TaskRecord]:
            return transitions.give_up(record, self._clock.now_s(), failure, is_lost(record))

        return self._decide_claim(decide, task)


def _task_record(item: Item | None, first_record: TaskRecord) -> TaskRecord:
    return items.task_record(item) if item else TaskRecord(first_record.task_id, accepted_s=first_record.accepted_s)
