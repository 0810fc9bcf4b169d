"""A real table that several writers share, and its model: each method that changes the table changes the model, too."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable, Field
from deltalake.exceptions import TableNotFoundError
from deltalake.schema import PrimitiveType
from pyiceberg.exceptions import NoSuchTableError
from pyiceberg.types import DoubleType, StringType

from sparklet.job.errors import CommitConflictError, SparkletError, TableError
from tests.functional.tables.expected import BASE, DAY, ID, VERSION, Column, Row, State, Write
from tests.functional.tables.lakes import Lake

ARROW = {"string": pa.string(), "double": pa.float64()}
ICEBERG = {"string": StringType(), "double": DoubleType()}
NAMES = ("a", "b", "c")
DAYS = ("mon", "tue", None)


class SharedTable:
    """The table, the model of its state, and the models of the earlier states that the table still knows."""

    def __init__(self, lake: Lake, partitioned: bool) -> None:
        self.lake, self.by, self.is_delta = lake, [DAY] if partitioned else [], lake.format == "delta"
        self.types: dict[Column, str] = {}
        self._serial = count(1)
        self.state = State({**BASE, "a": self._identity("a", "string")})
        self.exists = False
        self.history: dict[int, State] = {}  # by Iceberg's snapshot or Delta's version

    def _identity(self, name: str, type_: str) -> Column:
        """Return a new column's identity; in Delta, without column mapping, this is only the name and the type."""
        column = f"{name}:{type_}" if self.is_delta else f"{name}:{type_}:{next(self._serial)}"
        self.types[column] = type_
        return column

    def row(self, id_: int, day: str | None, version: int | None = None) -> Row:
        """Return a row for the present columns; ``version`` orders it among other rows, and no two rows are equal."""
        serial = next(self._serial)
        extra = {each: self._value(each, serial) for each in self.state.columns.values() if each in self.types}
        return {ID: id_, DAY: day, VERSION: (version or 0) * 100_000 + serial, **extra}

    def _value(self, column: Column, serial: int) -> Any:
        value = serial + 0.5 if self.types[column] == "double" else f"{column[0]}{serial}"
        return value if serial % 7 else None

    def arrow(self, rows: Sequence[Row], columns: Mapping[str, Column]) -> pa.Table:
        """Return the rows as a script or another writer has them, with the names that the columns had."""
        types = {ID: pa.int64(), DAY: pa.string(), VERSION: pa.int64()}
        schema = pa.schema([(name, types.get(each) or ARROW[self.types[each]]) for name, each in columns.items()])
        return pa.Table.from_pylist([{name: row[each] for name, each in columns.items()} for row in rows], schema)

    # --- what a reader finds ---

    def compare(self) -> None:
        """Check that the table has each row of the model once, and nothing else."""
        try:
            table = self.lake.read()
        except (NoSuchTableError, TableNotFoundError):
            assert not self.exists, "the table is gone"
            return
        self.exists = True
        assert sorted(table.column_names) == sorted(self.state.columns)
        rows = zip(*(table[name].to_pylist() for name in sorted(self.state.columns)), strict=True)
        actual, expected = sorted(rows, key=repr), self.state.visible()
        lost = [row for row in expected if row not in actual]
        surplus = [row for row in actual if row not in expected]
        assert actual == expected, f"lost {lost}, too much {surplus}"
        self.history[self.lake.version()] = self.state

    def _delta(self) -> DeltaTable:
        return DeltaTable(self.lake.delta)

    # --- our commits ---

    def made(self, writes: Sequence[Write]) -> None:
        """Add writes to the model that a committer has made, whether or not the committer knows it."""
        for write in writes:
            assert not write.has_a_key_twice, "a key is twice in a run without an order"
            self.state = self.state.after(write)

    def may_refuse(self, writes: Sequence[Write], error: SparkletError, interfered: bool) -> bool:
        """Whether a committer is right to refuse the writes with this error."""
        # A batch of records or messages is delivered again, and then fits the state of the table at that time.
        if any(write.id.startswith(("record-", "queued-")) for write in writes):
            partly_made = len({write.id in self.state.made for write in writes}) == 2
            if isinstance(error, CommitConflictError) or (interfered and isinstance(error, TableError)):
                return interfered or partly_made
        unfit = any(not self.state.fits(write) or write.has_a_key_twice for write in writes)
        return isinstance(error, TableError) and unfit

    # --- other writers ---

    def create(self, rows: Sequence[Row]) -> None:
        self.lake.create(self.arrow(rows, self.state.columns), self.by)
        self.state = replace(self.state, rows=rows)
        self.compare()

    def append(self, rows: Sequence[Row]) -> None:
        self.lake.append(self.arrow(rows, self.state.columns))
        self.state = replace(self.state, rows=[*self.state.rows, *rows])

    def evolve(self, change: str, name: str, type_: str) -> None:
        """Add the column if it does not exist; else drop, rename or replace it, in Iceberg only."""
        columns, free = dict(self.state.columns), [each for each in NAMES if each not in self.state.columns]
        if name in columns:
            if self.is_delta or (change == "rename" and not free):
                return
            column = columns.pop(name)
            with self.lake.iceberg().update_schema() as update:
                update.rename_column(name, free[0]) if change == "rename" else update.delete_column(name)
            columns |= {free[0]: column} if change == "rename" else {}
        if name in free or change == "replace":
            columns[name] = self._identity(name, type_)
            if self.is_delta:
                self._delta().alter.add_columns([Field(name, PrimitiveType(type_))])
            else:
                with self.lake.iceberg().update_schema() as update:
                    update.add_column(name, ICEBERG[type_])
        self.state = replace(self.state, columns=columns)

    def compact(self) -> None:
        if self.is_delta:
            self._delta().optimize.compact()
        elif self.state.rows:
            table = self.lake.iceberg()
            table.overwrite(table.scan().to_arrow())

    def roll_back(self, which: int) -> None:
        """Go back to a state that the table still knows; the ids of commits stay, and so do Iceberg's columns."""
        version, before = list(self.history.items())[which % len(self.history)]
        if version == self.lake.version() or not (version or self.is_delta):
            return
        self.lake.restore(version)
        columns = before.columns if self.is_delta else self.state.columns
        self.state = replace(before, columns=columns, made=self.state.made)

    def expire(self) -> None:
        self.lake.expire()
        self.history.clear()

    def set_property(self, name: str, value: str) -> None:
        if self.is_delta:
            self._delta().alter.set_table_properties({name: value})
