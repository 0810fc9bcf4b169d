"""The ledger's store in memory, changed under one lock: for tests, and for a table that was read from a file."""

import threading
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar

from sparklet.ledger.store import Change, Delete, Item, Key, New, Written, holds
from sparklet.model import ShardState

PAGE = 100
T = TypeVar("T")


class MemoryStore:
    """A ``Store`` in dictionaries: items by sort key, by partition."""

    def __init__(self, partitions: Mapping[str, dict[str, Item]] | None = None) -> None:
        self.partitions = dict(partitions or {})
        # Reentrant, since writes read while they hold it.
        self._lock = threading.RLock()

    def get(self, key: Key) -> Item | None:
        """An item."""
        with self._lock:
            return self.partitions.get(key[0], {}).get(key[1])

    def get_many(self, keys: Iterable[Key]) -> Iterator[Item]:
        """Those of these items that are there."""
        return filter(None, map(self.get, keys))

    def keys(
        self, partition: str, within: tuple[str, str] | None = None, *, index: bool = False, backwards: bool = False
    ) -> Iterator[Sequence[Key]]:
        """A partition's keys, in order."""
        first, last = within or ("", "\U0010ffff")
        by = "open" if index else "sk"
        items = [item for item in self._all([partition]) if by in item and first <= item[by] <= last]
        items.sort(key=lambda item: (item[by], item["sk"]), reverse=backwards)
        yield from _pages((item["pk"], item["sk"]) for item in items)

    def items(self, partitions: Sequence[str], prefix: str, state: ShardState | None = None) -> Iterator[Item]:
        """Items in order of their sort keys, each page as it is when it is read."""
        keys = sorted((item["sk"], item["pk"]) for item in self._all(partitions) if item["sk"].startswith(prefix))
        for page in _pages(keys):
            items = list(self.get_many((pk, sk) for sk, pk in page))
            yield from (item for item in items if state is None or item["state"] == state)

    def last(self, partition: str, prefix: str) -> Item | None:
        """The last item whose sort key begins with ``prefix``."""
        items = [item for item in self._all([partition]) if item["sk"].startswith(prefix)]
        return max(items, key=lambda item: item["sk"], default=None)

    def count(self, partitions: Sequence[str]) -> Mapping[str, int]:
        """Items by state."""
        return Counter(item["state"] for item in self._all(partitions))

    def glance(self, partitions: Sequence[str], states: Sequence[ShardState]) -> Mapping[str, int]:
        """Items of these states."""
        counts = self.count(partitions)
        return Counter({state: counts[state] for state in states if state in counts})

    def _all(self, partitions: Sequence[str]) -> list[Item]:
        with self._lock:
            return [item for partition in partitions for item in self.partitions.get(partition, {}).values()]

    def add(self, items: Iterable[Item]) -> int:
        """Put each item that is not there yet; how many were new."""
        return sum(self.write(New(item)).applied for item in items)

    def write(self, *changes: Change) -> Written:
        """Make all changes, if every condition holds."""
        with self._lock:
            if applied := all(holds(change.given, self.get(change.key)) for change in changes):
                writer = uuid.uuid4().hex[:12]
                for change in changes:
                    self._make(change, writer)
            return Written(applied, self.get(changes[0].key))

    def _make(self, change: Change, writer: str) -> None:
        pk, sk = change.key
        items = self.partitions.setdefault(pk, {})
        if isinstance(change, Delete):
            items.pop(sk, None)
        elif isinstance(change, New):
            items[sk] = {**change.item, "writer": writer, "revision": 1}
        elif change.sets:
            was = items.get(sk, {"pk": pk, "sk": sk})
            after = {**was, **change.sets, "writer": writer, "revision": was.get("revision", 0) + 1}
            items[sk] = {name: value for name, value in after.items() if value is not None}

    def empty(self, partitions: Sequence[str], spared: Key | None = None) -> int:
        """Delete all items of partitions but one; how many."""
        with self._lock:
            keys = [key for partition in partitions for page in self.keys(partition) for key in page if key != spared]
            for key in keys:
                del self.partitions[key[0]][key[1]]
            return len(keys)


def _pages(values: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(values)
    return iter(lambda: list(islice(rest, PAGE)), [])
