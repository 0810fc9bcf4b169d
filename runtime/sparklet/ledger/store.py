"""What the ledger needs of a table: items by key, and writes of which all are made if all their conditions hold.

An item is a mapping of plain values with its key in ``pk`` and ``sk``, and with ``open`` it is in the index, in order
of that. The store counts an item's writes in ``revision`` and signs it with ``writer``: by the sign a write whose
answer was lost is known again.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sparklet.model import ShardState

Key = tuple[str, str]
Item = Mapping[str, Any]
ABSENT: Item = {"pk": None}
"""What holds where there is no item."""
TRIES = 10  # of a swap that others come before


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


def holds(given: Item, item: Item | None) -> bool:
    """Whether an item has these values."""
    return all((item or {}).get(name) == value for name, value in given.items())
