"""What a table must hold: a few lines that know nothing of files, snapshots and logs.

A column has an identity besides its name, so a name that is dropped and added again is another column. A state has the
ids of all commits, also of those whose rows somebody took out by going back to an earlier state.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

Column = str  # a column's identity
Row = Mapping[Column, Any]
ID, DAY, VERSION = "id", "day", "version"
BASE: Mapping[str, Column] = {name: name for name in (ID, DAY, VERSION)}  # those that nobody renames or drops


@dataclass(frozen=True)
class Write:
    """A commit as its script means it: rows that were made for certain columns."""

    id: str
    mode: str
    rows: Sequence[Row]
    columns: Mapping[str, Column]  # the table's, when the rows were staged
    earlier: Sequence[Row] = ()  # of the run's earlier commits
    ordered: bool = False

    @property
    def has_a_key_twice(self) -> bool:
        """Whether nothing says which of two rows of this run is to win."""
        keys = [row[ID] for row in (*self.earlier, *self.rows)]
        return self.mode == "upsert" and not self.ordered and len(keys) > len(set(keys))


@dataclass(frozen=True)
class State:
    """A table at a moment."""

    columns: Mapping[str, Column]
    rows: Sequence[Row] = ()
    made: frozenset[str] = frozenset()

    def after(self, write: Write) -> "State":
        """The table with a commit in it, once."""
        if write.id in self.made or not write.rows:
            return self
        change = {"upsert": _upserted, "overwrite_partitions": _overwritten}.get(write.mode)
        rows = change(self.rows, write) if change else [*self.rows, *write.rows]
        return replace(self, rows=rows, made=self.made | {write.id})

    def fits(self, write: Write) -> bool:
        """Whether each column that the rows were made for is there, and has its name still."""
        return all(self.columns.get(name) == column for name, column in write.columns.items())

    def visible(self) -> list[tuple[Any, ...]]:
        """The rows as readers see them, in order."""
        rows = [tuple(row.get(self.columns[name]) for name in sorted(self.columns)) for row in self.rows]
        return sorted(rows, key=repr)


def _upserted(rows: Sequence[Row], write: Write) -> Sequence[Row]:
    """The row with the greatest version wins if there is an order, the table's too; else the commit's."""
    found = {row[ID]: row for row in rows}
    for row in sorted(write.rows, key=lambda row: int(row[VERSION])):
        if not (write.ordered and row[ID] in found and found[row[ID]][VERSION] > row[VERSION]):
            found[row[ID]] = row
    return list(found.values())


def _overwritten(rows: Sequence[Row], write: Write) -> Sequence[Row]:
    """The partitions of the commit's own rows hold what the run has written to them, and nothing else."""
    touched = {row[DAY] for row in write.rows}
    of_run = [row for row in (*write.earlier, *write.rows) if row[DAY] in touched]
    return [*(row for row in rows if row[DAY] not in touched), *of_run]
