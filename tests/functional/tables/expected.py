"""A model of what a table must hold; it knows nothing of files, snapshots and logs.

A column has an identity besides its name, so a name that is dropped and added again is another column. A state has the
ids of all commits, also of commits whose rows were removed by a return to an earlier state.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

Column = str  # a column's identity
Row = Mapping[Column, Any]
ID, DAY, VERSION = "id", "day", "version"
BASE: Mapping[str, Column] = {name: name for name in (ID, DAY, VERSION)}  # the columns that nobody renames or drops


@dataclass(frozen=True)
class Write:
    """The rows that a script wants one commit to write, and the columns that the rows were made for."""

    id: str
    mode: str
    rows: Sequence[Row]
    columns: Mapping[str, Column]  # the columns of the table when the rows were staged
    earlier: Sequence[Row] = ()  # the rows of the run's earlier commits
    ordered: bool = False

    @property
    def has_a_key_twice(self) -> bool:
        """Whether two rows of this run have the same key, and no order says which of them wins."""
        keys = [row[ID] for row in (*self.earlier, *self.rows)]
        return self.mode == "upsert" and not self.ordered and len(keys) > len(set(keys))


@dataclass(frozen=True)
class State:
    """A table at a moment: its columns by name, its rows, and the ids of the commits that were made."""

    columns: Mapping[str, Column]
    rows: Sequence[Row] = ()
    made: frozenset[str] = frozenset()

    def after(self, write: Write) -> "State":
        """Return the state after a commit; the same state if the commit was made before or has no rows."""
        if write.id in self.made or not write.rows:
            return self
        change = {"upsert": _upsert, "overwrite_partitions": _overwrite}.get(write.mode)
        rows = change(self.rows, write) if change else [*self.rows, *write.rows]
        return replace(self, rows=rows, made=self.made | {write.id})

    def fits(self, write: Write) -> bool:
        """Whether each column that the rows were made for still exists with the same name."""
        return all(self.columns.get(name) == column for name, column in write.columns.items())

    def visible(self) -> list[tuple[Any, ...]]:
        """Return the rows as readers see them, in order."""
        rows = [tuple(row.get(self.columns[name]) for name in sorted(self.columns)) for row in self.rows]
        return sorted(rows, key=repr)


def _upsert(rows: Sequence[Row], write: Write) -> Sequence[Row]:
    """Replace rows by key. In an ordered write a row of the table stays if its version is greater."""
    by_id = {row[ID]: row for row in rows}
    for row in sorted(write.rows, key=lambda row: int(row[VERSION])):
        if not (write.ordered and row[ID] in by_id and by_id[row[ID]][VERSION] > row[VERSION]):
            by_id[row[ID]] = row
    return list(by_id.values())


def _overwrite(rows: Sequence[Row], write: Write) -> Sequence[Row]:
    """Replace each partition that the commit has rows for by all rows of the run in that partition."""
    touched = {row[DAY] for row in write.rows}
    of_run = [row for row in (*write.earlier, *write.rows) if row[DAY] in touched]
    return [*(row for row in rows if row[DAY] not in touched), *of_run]
