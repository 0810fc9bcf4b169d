"""Tasks of the asynchronous API, and calls of ``functions``: transitions, swapped in the store.

A claim, and an end by others, presume a task that was never recorded, the most frequent case, and read nothing.
"""

from collections.abc import Callable, Iterable, Iterator

from sparklet.ledger import items, transitions
from sparklet.ledger.clock import Clock
from sparklet.ledger.store import Item, Store, Swaps
from sparklet.model import Claim, Failure, ShardResult, TaskRecord


class Tasks(Swaps[TaskRecord]):
    """Tasks, one by one. Every method raises LedgerError; LeaseLostError if the task is another attempt's."""

    def __init__(self, store: Store, clock: Clock) -> None:
        super().__init__(store, clock, items.task_change, _task)

    def get_many(self, task_ids: Iterable[str]) -> Iterator[TaskRecord]:
        """Those of these tasks that were ever recorded (strongly consistent), in any order."""
        return map(items.task_record, self._store.get_many(map(items.task_key, task_ids)))

    def claim(
        self, task: TaskRecord, attempt_id: str, end_s: float, max_attempts: int, log_stream: str = ""
    ) -> Claim[TaskRecord]:
        """Take a task until ``end_s`` and count the attempt; ``task``: as it is if it was never recorded.

        As a shard's: the same attempt id is GRANTED again, and without an attempt left the task is FAILED, EXHAUSTED.
        """

        def answer(record: TaskRecord) -> Claim[TaskRecord]:
            now_s = self._clock.now_s()
            return transitions.claim_task(record, attempt_id, now_s, end_s - now_s, max_attempts, log_stream)

        return self._answer(answer, task)

    def tell(self, mine: TaskRecord, said: Callable[..., TaskRecord], what: ShardResult | Failure) -> TaskRecord:
        """Make an attempt's transition of the task it has claimed (succeed, fail, release); return the task then."""
        return self._change(lambda record: (said(record, mine.attempt_id, self._clock.now_s(), what),), mine)

    def give_up(
        self, task: TaskRecord, failure: Failure | None = None, lost: Callable[[TaskRecord], bool] = lambda _: False
    ) -> Claim[TaskRecord]:
        """EXHAUSTED, and FAILED now, for a task that nobody delivers any more; DONE if it has ended before.

        ``task``: as it is if it was never recorded; ``failure`` None: the last known cause; ``lost``: whether the
        attempt is known to have ended. LeaseLostError if an attempt holds it.
        """
        return self._answer(lambda it: transitions.give_up(it, self._clock.now_s(), failure, lost(it)), task)


def _task(item: Item | None, was: TaskRecord) -> TaskRecord:
    return items.task_record(item) if item else TaskRecord(was.task_id, accepted_s=was.accepted_s)
