"""Generated writes to a table: the rows of the shards, and the columns and partitioning of the table.

Values are Spark SQL literals, so the shards of a run and one plain Spark job have the same rows to the last bit. A
format passes its own types, names and partition transforms. ``id`` is unique unless rows are to be replaced.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, Phase, event, settings
from hypothesis import strategies as st
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException

from sparklet.job.errors import SparkletError

SCALARS: Mapping[str, Sequence[str]] = {
    "BOOLEAN": ["true", "false"],
    "TINYINT": ["-128", "0", "127"],
    "SMALLINT": ["-32768", "1", "32767"],
    "INT": ["-2147483648", "-1", "0", "2147483647"],
    "BIGINT": ["-9223372036854775808", "-1", "0", "7", "9223372036854775807"],
    "FLOAT": ["'NaN'", "'-0.0'", "'0.0'", "'Infinity'", "'-Infinity'", "'0.1'", "'3.4028235E38'", "'1.4E-45'"],
    "DOUBLE": [
        "'NaN'",
        "'-0.0'",
        "'0.0'",
        "'Infinity'",
        "'-Infinity'",
        "'0.1'",
        "'1.7976931348623157E308'",
        "'4.9E-324'",
    ],
    "DECIMAL(9,2)": ["-1234567.89", "0.00", "1.50"],
    "DECIMAL(24,4)": ["12345678901234567890.1234", "-12345678901234567890.1235", "0", "1.5"],
    "DECIMAL(38,0)": ["99999999999999999999999999999999999999", "-1", "0"],
    "STRING": [
        *("''", "'a'", "' a '", "'a b/c:%25'", "'it''s'", "'x=y'", "'null'", "'Größe'", "'\U0001f600'", "'2026-01-15'"),
        *("'__HIVE_DEFAULT_PARTITION__'", "'\\\\'", "'\\n'", f"'{'z' * 70}'", "'..'", "'NaN'"),
    ],
    "BINARY": ["X''", "X'00'", "X'FF00'", "X'C3BC'", "X'61'"],
    "DATE": ["'2026-01-15'", "'0001-01-01'", "'9999-12-31'", "'1582-10-15'", "'+10000-01-01'", "'-0044-03-15'"],
    "TIMESTAMP": [
        *("'2026-01-15 10:00:00Z'", "'2026-03-29 02:30:00.123456Z'", "'1969-12-31 23:59:59.999999Z'"),
        *("'0001-01-01 00:00:00Z'", "'1582-10-04 00:00:00Z'", "'9999-12-31 23:59:59.999999Z'"),
    ],
    "TIMESTAMP_NTZ": ["'2026-01-15 10:00:00'", "'2026-10-25 02:30:00.000001'", "'0001-01-01 00:00:00'"],
}
NESTED: Mapping[str, Sequence[str]] = {
    "ARRAY<INT>": ["array()", "array(1, null)", "array(3)"],
    "MAP<STRING, DOUBLE>": ["map()", "map('a', 1.5, '', null)", "map('ü', double('NaN'))"],
    "STRUCT<a: INT, B: STRING>": ["named_struct('a', 1, 'B', '')", "named_struct('a', null, 'B', null)"],
    "ARRAY<STRUCT<x: DATE, y: DECIMAL(24, 4)>>": [
        "array(named_struct('x', date'0001-01-01', 'y', 12345678901234567890.1234))",
        "array(null, named_struct('x', null, 'y', 0))",
    ],
    "STRUCT<s: STRUCT<t: TIMESTAMP, l: ARRAY<STRING>>>": [
        "named_struct('s', named_struct('t', timestamp'2026-01-15 10:00:00Z', 'l', array('', null)))",
        "named_struct('s', null)",
    ],
}
BEYOND = {  # literals that neither Python's datetime nor some readers can hold
    "DATE": ["'+10000-01-01'", "'-0044-03-15'"],
    "TIMESTAMP": ["'+10000-01-01 00:00:00Z'", "'-0044-03-15 00:00:00Z'"],
}
TYPES: Mapping[str, Sequence[str]] = {**SCALARS, **NESTED}
NAMES = ("a", "Größe", "select", "_under", "a-b", "100%", "päth/x", "x.y", "Upper", "new\N{WARNING SIGN}", "`tick`")
ID = "id"
FOLDERS, SEED = int(os.environ.get("SPARKLET_FOLDERS") or "6"), int(os.environ.get("SPARKLET_SEED") or "10")
ZONES = ("UTC", "America/New_York")
TRIALS = settings(
    max_examples=FOLDERS,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
MAX_COLUMNS, MAX_SHARDS, MAX_ROWS = 6, 3, 4


@dataclass(frozen=True)
class Column:
    """A column of a table, with its type in Spark's DDL."""

    name: str
    type: str

    @property
    def ddl(self) -> str:
        """The column's definition for CREATE TABLE."""
        return f"{quoted(self.name)} {self.type}"


@dataclass(frozen=True)
class Shard:
    """The rows of one shard; a row has a literal for each column."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def sql(self) -> str:
        """A query that returns the rows with exactly the types of the columns."""
        rows = self.rows or [("null",) * len(self.columns)]
        selects = (
            ", ".join(f"CAST({v} AS {c.type}) AS {quoted(c.name)}" for c, v in zip(self.columns, row, strict=True))
            for row in rows
        )
        union = " UNION ALL ".join(f"SELECT {select}" for select in selects)
        return union if self.rows else f"SELECT * FROM ({union}) WHERE false"

    @property
    def nullable_sql(self) -> str:
        """The query of ``sql`` with nullable columns, as columns read from files are."""
        nulls = ", ".join(f"CAST(null AS {column.type})" for column in self.columns)
        return f"SELECT * FROM ({self.sql}) UNION ALL SELECT {nulls} WHERE false"


@dataclass(frozen=True)
class Case:
    """A table, and what the shards of one run write to it.

    ``first`` has the rows of the table before the run, and is None if the run creates the table. ``by`` is the
    partitioning, as in ``PARTITIONED BY``. In an upsert each pair of ``key`` and ``order_by`` is unique, or each key if
    ``order_by`` is None. ``delete`` is the condition for the rows of an upsert that delete rows of the table.
    """

    by: tuple[str, ...]
    first: Shard | None
    shards: tuple[Shard, ...]
    mode: str
    key: str = ID
    order_by: str | None = None
    merge_schema: bool = False
    delete: str | None = None

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns of the table after the run, in no particular order."""
        shards = (*([self.first] if self.first else []), *self.shards)
        return tuple({column.name: column for shard in shards for column in shard.columns}.values())


def quoted(name: str) -> str:
    """Return a column's name as SQL needs it."""
    return "`{}`".format(name.replace("`", "``"))


@st.composite
def cases(
    draw: st.DrawFn,
    types: Mapping[str, Sequence[str]],
    names: Sequence[str],
    partitions: Callable[[Column], Sequence[str]],
    modes: Sequence[str] = ("append", "upsert", "overwrite_partitions"),
) -> Case:
    """Draw a case. ``partitions`` returns the SQL partition transforms that a column allows."""
    mode = draw(st.sampled_from(modes))
    chosen = draw(st.lists(st.sampled_from(names), min_size=1, max_size=MAX_COLUMNS, unique_by=str.lower))
    columns = [Column(ID, "BIGINT")] + [Column(name, draw(st.sampled_from(list(types)))) for name in chosen]
    partitionable = [column for column in columns[1:] if partitions(column)]
    min_parts = 1 if mode == "overwrite_partitions" and partitionable else 0
    parts = (
        draw(st.lists(st.sampled_from(partitionable), min_size=min_parts, max_size=2, unique=True))
        if partitionable
        else []
    )
    by = tuple(draw(st.sampled_from(list(partitions(column)))) for column in parts)
    if mode == "overwrite_partitions" and not by:
        mode = "append"
    key, order_by = ID, None
    if mode == "upsert":
        key = draw(st.sampled_from([ID, *(c.name for c in columns if c.type in SCALARS)]))
        order_by = draw(st.sampled_from([None, *(c.name for c in columns if c.type in SCALARS and c.name != key)]))
    delete = draw(st.sampled_from([None, f"{ID} % 3 = 0"])) if mode == "upsert" else None
    grows = draw(st.booleans()) and len(columns) > 2 and mode == "append"
    ids = iter(range(1, 1000))
    seen: set[tuple[str, ...]] = set()

    def shard(shard_columns: Sequence[Column], count: int, is_first: bool = False) -> Shard:
        rows = []
        for _ in range(count):
            row = tuple(str(next(ids)) if c.name == ID else _value(draw, types, c, key) for c in shard_columns)
            values = {column.name: value for column, value in zip(shard_columns, row, strict=True)}
            compared = [key, order_by] if order_by and not is_first else [key]
            pair = tuple(_without_negative_zero(values[name]) for name in compared)
            if mode != "upsert" or pair not in seen:
                seen.add(pair)
                rows.append(row)
        return Shard(tuple(shard_columns), tuple(rows))

    adds_column = columns[-1].name not in set(_names_in(by)) and grows
    narrow = columns[:-1] if adds_column else columns
    first = shard(narrow, draw(st.integers(0, MAX_ROWS)), is_first=True) if draw(st.booleans()) else None
    if mode == "upsert":
        seen.clear()  # rows of the run are allowed to replace rows of the table
        ids = iter(range(1, 1000))
    count = draw(st.integers(1, MAX_SHARDS))
    columns_of_shards = [draw(st.sampled_from([narrow, columns])) for _ in range(count)]
    shards = tuple(shard(each, draw(st.integers(0, MAX_ROWS))) for each in columns_of_shards)
    return Case(by, first, shards, mode, key, order_by, adds_column, delete)


def both_write(by_spark: Callable[[], None], by_shards: Callable[[], None]) -> bool:
    """Let one Spark job write, then a run's shards. Return False if Spark refuses; the shards must refuse, too."""
    try:
        by_spark()
    except (PySparkException, Py4JJavaError) as error:
        with pytest.raises((SparkletError, PySparkException, Py4JJavaError)):
            by_shards()
        event(f"refused: {str(error)[:60]}")
        return False
    by_shards()
    return True


def merge_clauses(case: Case) -> str:
    """Return the SQL that follows ``MERGE INTO … t USING … s ON`` in a statement that does what the upsert does."""
    key, order = quoted(case.key), quoted(case.order_by or "")
    newer = f"AND (t.{order} IS NULL OR s.{order} >= t.{order})" if case.order_by else ""
    deletes = f"s.{case.delete}" if case.delete else "false"
    deleting = f"WHEN MATCHED {newer} AND {deletes} THEN DELETE " if case.delete else ""
    updating = f"WHEN MATCHED {newer} THEN UPDATE SET *"
    return f"t.{key} = s.{key} {deleting}{updating} WHEN NOT MATCHED AND NOT {deletes} THEN INSERT *"


def _value(draw: st.DrawFn, types: Mapping[str, Sequence[str]], column: Column, key: str) -> str:
    values = list(types[column.type])
    return draw(st.sampled_from(values if column.name == key else [*values, "null"]))


def _without_negative_zero(value: str) -> str:
    """Return the same text for literals that are equal in Spark."""
    return "'0.0'" if value == "'-0.0'" else value


def _names_in(by: Sequence[str]) -> Sequence[str]:
    return [text[text.index("`") + 1 : text.rindex("`")].replace("``", "`") for text in by]
