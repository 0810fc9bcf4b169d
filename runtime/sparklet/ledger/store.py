"""The table that the ledger needs: items by key, and conditional writes of which all or none are made.

``Swaps`` changes records by compare-and-swap.

``MemoryStore`` is a table in memory: for tests, and for a ledger that was read from a file.

An item is a mapping of plain values with its key in ``pk`` and ``sk``. An item with ``open`` is also in the index, in
order of ``open``. The store counts an item's writes in ``revision``, and marks each with a ``writer`` of its own:
the mark shows whether a write was made whose answer was lost.
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
"""The condition that there is no such item."""
TRIES = 10  # of one change, if another writer is faster each time
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class New:
    """Put an item if there is none with its key."""

    item: Item

    @property
    def key(self) -> Key:
        """The item's key."""
        return self.item["pk"], self.item["sk"]

    @property
    def given(self) -> Item:
        """The condition: there is no such item."""
        return ABSENT


@dataclass(frozen=True, slots=True)
class Update:
    """Set attributes of an item if it has the attributes and values that are ``given``.

    None in ``sets`` removes an attribute; None in ``given`` demands that the item lacks it. An update without ``sets``
    only adds its condition to those of the other changes.
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
    """Whether a write was made, and the item of its first change as it is now, None if there is no such item."""

    applied: bool
    item: Item | None


class Store(Protocol):
    """A table. Reads are strongly consistent, except of the index. Every method raises LedgerError."""

    def get(self, key: Key) -> Item | None:
        """The item with this key; None if there is none."""

    def get_many(self, keys: Iterable[Key]) -> Iterator[Item]:
        """The items with these keys, as far as they exist, in any order."""

    def keys(
        self, partition: str, within: tuple[str, str] | None = None, *, index: bool = False, backwards: bool = False
    ) -> Iterator[Sequence[Key]]:
        """A partition's keys in order, page by page, from the first to the last of ``within``.

        With ``index`` only the items in the index, in order of their ``open``.
        """

    def items(self, partitions: Sequence[str], prefix: str, state: ShardState | None = None) -> Iterator[Item]:
        """Items, only those in ``state`` if it is given, whose sort keys begin with ``prefix``.

        The items of all partitions come together in order of their sort keys.
        """

    def last(self, partition: str, prefix: str) -> Item | None:
        """The last item whose sort key begins with ``prefix``; None if there is none."""

    def count(self, partitions: Sequence[str]) -> Mapping[str, int]:
        """The number of items in each state."""

    def glance(self, partitions: Sequence[str], states: Sequence[ShardState]) -> Mapping[str, int]:
        """The number of items in each of these states, by the index, which may lag."""

    def add(self, items: Iterable[Item]) -> int:
        """Put each item that is not there yet, many at a time; return how many were new."""

    def write(self, *changes: Change) -> Written:
        """Make all changes if every condition holds. LedgerError if it is not known whether they are made."""

    def empty(self, partitions: Sequence[str], spared: Key | None = None) -> int:
        """Delete all items of these partitions except ``spared``; return how many were deleted."""


def holds(expected_values: Item, item: Item | None) -> bool:
    """Whether an item has these values; None stands for an attribute, or an item, that is not there."""
    return all((item or {}).get(name) == value for name, value in expected_values.items())


class Swaps(Generic[T]):
    """Changes records of one kind by compare-and-swap: a transition is written unless another writer came first.

    ``update_of`` makes the conditional update: its condition is the revision of the record that was read, or, without a
    read, the presumed fields. If the write is refused, it returns the item as it is now: ``record_of`` turns that into
    the record for the next try.
    """

    def __init__(
        self, store: Store, clock: Clock, update_of: Callable[..., Update], record_of: Callable[[Item | None, T], T]
    ) -> None:
        self._store, self._clock, self._update_of, self._record_of = store, clock, update_of, record_of

    def _change(self, transition: Callable[[T], tuple[T, *tuple[Change, ...]]], record: T, *presumed_fields: str) -> T:
        """Write what ``transition`` makes of the record, if it differs; return the record as it is then.

        ``transition`` returns the new record, and perhaps other changes for the same transaction. If the record was not
        read, ``presumed_fields`` are the names of the fields on whose values the write is conditional.
        """
        for _ in range(TRIES):
            after, *other_changes = transition(record)
            update = self._update_of(record, after, *presumed_fields)
            # Nothing to write: the change was made before, or the claim is refused.
            if not update.sets:
                return record
            written = self._store.write(update, *other_changes)
            # A transaction that was made does not return the item.
            if written.applied and other_changes:
                return after
            # A refused write returns it, so nothing is read again. From now on its revision is the condition, and no
            # field is presumed.
            record, presumed_fields = self._record_of(written.item, record), ()
            if written.applied:
                return record
        raise LedgerError(
            f"the item {' '.join(update.key)} was changed by another writer during each of {TRIES} tries; try again"
        )

    def _decide_claim(self, decide: Callable[[T], Claim[T]], record: T, *presumed_fields: str) -> Claim[T]:
        """Write the record as ``decide`` answers a claim to it; return the answer, with the record as it is then."""
        answers: list[Claim[T]] = []

        def transition(record: T) -> tuple[T]:
            answers.append(decide(record))
            return (answers[-1].record,)

        # A refused try gave an answer that was never written: only the last one holds.
        record = self._change(transition, record, *presumed_fields)
        return Claim(answers[-1].status, record)


PAGE = 100


class MemoryStore:
    """A ``Store`` in dictionaries: items by sort key, by partition."""

    def __init__(self, partitions: Mapping[str, dict[str, Item]] | None = None) -> None:
        self.partitions = dict(partitions or {})
        # Reentrant, since writes read while they hold it.
        self._lock = threading.RLock()

    def get(self, key: Key) -> Item | None:
        """The item with this key; None if there is none."""
        with self._lock:
            return self.partitions.get(key[0], {}).get(key[1])

    def get_many(self, keys: Iterable[Key]) -> Iterator[Item]:
        """The items with these keys, as far as they exist."""
        return filter(None, map(self.get, keys))

    def keys(
        self, partition: str, within: tuple[str, str] | None = None, *, index: bool = False, backwards: bool = False
    ) -> Iterator[Sequence[Key]]:
        """A partition's keys in order."""
        first, last = within or ("", "\U0010ffff")
        attribute = "open" if index else "sk"
        items = [
            item for item in self._all_items([partition]) if attribute in item and first <= item[attribute] <= last
        ]
        items.sort(key=lambda item: (item[attribute], item["sk"]), reverse=backwards)
        yield from _pages((item["pk"], item["sk"]) for item in items)

    def items(self, partitions: Sequence[str], prefix: str, state: ShardState | None = None) -> Iterator[Item]:
        """Items in order of their sort keys; each page is as the table holds it when the page is read."""
        keys = sorted((item["sk"], item["pk"]) for item in self._all_items(partitions) if item["sk"].startswith(prefix))
        for page in _pages(keys):
            items = list(self.get_many((pk, sk) for sk, pk in page))
            yield from (item for item in items if state is None or item["state"] == state)

    def last(self, partition: str, prefix: str) -> Item | None:
        """The last item whose sort key begins with ``prefix``; None if there is none."""
        items = [item for item in self._all_items([partition]) if item["sk"].startswith(prefix)]
        return max(items, key=lambda item: item["sk"], default=None)

    def count(self, partitions: Sequence[str]) -> Mapping[str, int]:
        """The number of items in each state."""
        return Counter(item["state"] for item in self._all_items(partitions))

    def glance(self, partitions: Sequence[str], states: Sequence[ShardState]) -> Mapping[str, int]:
        """The number of items in each of these states."""
        counts = self.count(partitions)
        return Counter({state: counts[state] for state in states if state in counts})

    def _all_items(self, partitions: Sequence[str]) -> list[Item]:
        with self._lock:
            return [item for partition in partitions for item in self.partitions.get(partition, {}).values()]

    def add(self, items: Iterable[Item]) -> int:
        """Put each item that is not there yet; return how many were new."""
        return sum(self.write(New(item)).applied for item in items)

    def write(self, *changes: Change) -> Written:
        """Make all changes if every condition holds."""
        with self._lock:
            applied = all(holds(change.given, self.get(change.key)) for change in changes)
            if applied:
                writer = uuid.uuid4().hex[:12]
                for change in changes:
                    self._apply(change, writer)
            return Written(applied, self.get(changes[0].key))

    def _apply(self, change: Change, writer: str) -> None:
        pk, sk = change.key
        items = self.partitions.setdefault(pk, {})
        if isinstance(change, Delete):
            items.pop(sk, None)
        elif isinstance(change, New):
            items[sk] = {**change.item, "writer": writer, "revision": 1}
        elif change.sets:
            before = items.get(sk, {"pk": pk, "sk": sk})
            after = {**before, **change.sets, "writer": writer, "revision": before.get("revision", 0) + 1}
            items[sk] = {name: value for name, value in after.items() if value is not None}

    def empty(self, partitions: Sequence[str], spared: Key | None = None) -> int:
        """Delete all items of these partitions except ``spared``; return how many were deleted."""
        with self._lock:
            keys = [key for partition in partitions for page in self.keys(partition) for key in page if key != spared]
            for key in keys:
                del self.partitions[key[0]][key[1]]
            return len(keys)


def _pages(values: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(values)
    return iter(lambda: list(islice(rest, PAGE)), [])
