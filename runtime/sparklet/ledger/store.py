"""What the ledger needs of a table: items by key, writes of which all are made if all their conditions hold, and swaps.

An item is a mapping of plain values with its key in ``pk`` and ``sk``, and with ``open`` it is in the index, in order
of that. The store counts an item's writes in ``revision`` and signs it with ``writer``: by the sign a write whose
answer was lost is known again.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
        """What must hold: there is no item."""
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
        """Put each item that is not there yet, many at a time; how many were new."""

    def write(self, *changes: Change) -> Written:
        """Make all changes, if every condition holds; LedgerError if it is not known and may still be made."""

    def empty(self, partitions: Sequence[str], spared: Key | None = None) -> int:
        """Delete all items of partitions but one; how many."""


def holds(expected_values: Item, item: Item | None) -> bool:
    """Whether an item has these values."""
    return all((item or {}).get(name) == value for name, value in expected_values.items())


class Swaps(Generic[T]):
    """Changes records of one kind, which a transition makes of what was read, unless another change came before.

    ``change`` is a swap: it depends on the revision that was read, or on what is presumed of a record that nobody has
    read. A refusal comes with the item, of which ``value`` makes the record for the next try.
    """

    def __init__(
        self, store: Store, clock: Clock, change: Callable[..., Update], value: Callable[[Item | None, T], T]
    ) -> None:
        self._store, self._clock, self._swap_of, self._value = store, clock, change, value

    def _change(self, step: Callable[[T], tuple[T, *tuple[Change, ...]]], was: T, *presumed: str) -> T:
        """Swap what ``step`` makes of a record, unless it stays as it is, with other changes; the record then."""
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
        """Swap what the answer to a claim makes of a record; the answer, with the record then."""
        answers: list[Claim[T]] = []

        def step(record: T) -> tuple[T]:
            answers.append(answer(record))
            return (answers[-1].record,)

        # A refused try gave an answer that was never written: only the last one holds.
        record = self._change(step, was, *presumed)
        return Claim(answers[-1].status, record)
