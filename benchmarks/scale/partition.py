"""One partition of DynamoDB in memory, which admits so many writes a second: as strict as AWS's at its worst.

It has no burst capacity. A throttled write is repeated as ``aws.dynamodb`` does.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Iterable

from sparklet.ledger.clock import Clock
from sparklet.ledger.shards import Attempts
from sparklet.ledger.store import Change, Item, MemoryStore, New, Update, Written


class Partition(MemoryStore):
    """The ledger's store in one partition."""

    def __init__(self, writes_per_s: int) -> None:
        super().__init__()
        self._most, self._second, self._left = writes_per_s, 0, 0
        self._admitting = threading.Lock()
        self.counts: Counter[str] = Counter()

    def attempts(self, clock: Clock) -> Attempts:
        """The real ledger's attempts in it."""
        return Attempts(self, clock)

    def add(self, items: Iterable[Item]) -> int:
        """Put each item, before the trial."""
        return sum(MemoryStore.write(self, New(item)).applied for item in items)

    def write(self, *changes: Change) -> Written:
        """Make all changes, once the partition admits it."""
        tries = 0
        while not self._admits():
            tries += 1
            time.sleep(random.uniform(0, min(2.0, 0.02 * 2 ** min(tries, 10))))
        return super().write(*changes)

    def shards(self) -> list[Item]:
        """All items."""
        return self._all_items(list(self.partitions))

    def expired(self, now_s: float) -> int:
        """How many attempts a check ends now, since their leases are over."""
        over = [each for each in self.shards() if each["state"] == "RUNNING" and each["lease_end_s"] < now_s]
        for each in over:
            key, given = (each["pk"], each["sk"]), {"revision": each["revision"]}
            super().write(Update(key, given, {"attempt_id": None, "state": "PENDING"}))
        return len(over)

    def _admits(self) -> bool:
        with self._admitting:
            if self._second != int(time.monotonic()):
                self._second, self._left = int(time.monotonic()), self._most
            self._left -= 1
            self.counts["taken" if self._left >= 0 else "throttled"] += 1
            return self._left >= 0
