"""What the ledger needs of a table: items by key, writes of which all are made if all their conditions hold, and swaps.

A table in memory, changed under one lock, serves tests, and a table that was read from a file.

An item is a mapping of plain values with its key in ``pk`` and ``sk``, and with ``open`` it is in the index, in order
of that. The store counts an item's writes in ``revision`` and signs it with ``writer``: by the sign a write whose
answer was lost is known again.
"""

import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

from sparklet.errors import LedgerError
from sparklet.ledger.clock import Clock
from sparklet.model import Claim, ShardState

Key = tuple[str, str]
Item = Mapping[str, Any]
ABSENT: Item = {"pk": None}
"""What holds where there is no item."""
TRIES = 10  # of a swap that others come before
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class New:
    """Put an item if there is none of its key."""

    item: Item

    @property
    def key(self) -> Key:
        """The item's."""
        return self.item["pk"], self.item["sk"]

    @property
    def given(self) -> Item:
        """The condition: there is no such item."""
        return ABSENT


@dataclass(frozen=True, slots=True)
class Update:
    """Set attributes (None: remove) where those that are ``given`` have these values (None: are not there).

    Without ``sets`` only the condition counts.
    """

    key: Key
    given: Item
    sets: Item = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete an item, whatever it holds."""

    key: Key
    given: Item = field(default_factory=dict)


Change = New | Update | Delete


@dataclass(frozen=True, slots=True)
class Written:
    """Whether a write was made, and the item of its first change as it is now; None if there is none."""

    applied: bool
    item: Item | None


class Store(Protocol):
    """A table. Reads are strongly consistent, except of the index. Every method raises LedgerError."""

    def get(self, key: Key) -> Item | None:
        """An item."""

    def get_many(self, keys: Iterable[Key]) -> Iterator[Item]:
        """Those of these items that are there, in any order."""

    def keys(
        self, partition: str, within: tuple[str, str] | None = None, *, index: bool = False, backwards: bool = False
    ) -> Iterator[Sequence[Key]]:
        """A partition's keys, page by page, in order; with ``index`` those in the index, and ``within`` two places."""

    def items(self, partitions: Sequence[str], prefix: str, state: ShardState | None = None) -> Iterator[Item]:
        """Items whose sort key begins with ``prefix``, of all partitions together in order of that; of one state."""

    def last(self, partition: str, prefix: str) -> Item | None:
        """The last item whose sort key begins with ``prefix``."""

    def count(self, partitions: Sequence[str]) -> Mapping[str, int]:
        """Items by state."""

    def glance(self, partitions: Sequence[str], states: Sequence[ShardState]) -> Mapping[str, int]:
        """Items of these states by the index, a moment old."""

    def add(self, items: Iterable[Item]) -> int:
        """Put each item that is not there yet, many at a time; return how many were new."""

    def write(self, *changes: Change) -> Written:
        """Make all changes, if every condition holds; LedgerError if it is not known and may still be made."""

    def empty(self, partitions: Sequence[str], spared: Key | None = None) -> int:
        """Delete all items of partitions but one; how many."""


def holds(expected_values: Item, item: Item | None) -> bool:
    """Whether an item has these values."""
    return all((item or {}).get(name) == value for name, value in expected_values.items())


class Swaps(Generic[T]):
    """Writes what transitions make of records that were read, unless another change came first; one kind of record.

    ``change`` is a swap: it depends on the revision that was read, or on what is presumed of a record that nobody has
    read. A refusal comes with the item, of which ``value`` makes the record for the next try.
    """

    def __init__(
        self, store: Store, clock: Clock, change: Callable[..., Update], value: Callable[[Item | None, T], T]
    ) -> None:
        self._store, self._clock, self._swap_of, self._value = store, clock, change, value

    def _change(self, step: Callable[[T], tuple[T, *tuple[Change, ...]]], was: T, *presumed: str) -> T:
        """Write the record that ``step`` makes, if it differs, with other changes; return the record as it is then."""
        for _ in range(TRIES):
            after, *also = step(was)
            change = self._swap_of(was, after, *presumed)
            # Nothing to write: what was said before was heard, or the answer to a claim is a refusal.
            if not change.sets:
                return was
            written = self._store.write(change, *also)
            if written.applied and also:
                return after  # a transaction tells no item
            # A refusal brings the item, so nothing is read again. From now on its revision is the condition, and
            # nothing is presumed.
            was, presumed = self._value(written.item, was), ()
            if written.applied:
                return was
        raise LedgerError(f"the item {' '.join(change.key)} changed under {TRIES} tries; try again")

    def _answer(self, answer: Callable[[T], Claim[T]], was: T, *presumed: str) -> Claim[T]:
        """Write the record that the answer to a claim makes; return the answer, with the record as it is then."""
        answers: list[Claim[T]] = []

        def step(record: T) -> tuple[T]:
            answers.append(answer(record))
            return (answers[-1].record,)

        # A refused try gave an answer that was never written: only the last one holds.
        record = self._change(step, was, *presumed)
        return Claim(answers[-1].status, record)


PAGE = 100


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
        """Put each item that is not there yet; return how many were new."""
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
