"""Staged rows that a commit writes anew; of an upsert one for each key.

Spark itself compares and sorts their values: NaN is the greatest, -0.0 is 0.0.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

from pyspark.sql import DataFrame, SparkSession, Window, functions
from pyspark.sql.types import BooleanType, StructField, StructType

from sparklet.connectors.tables.columns import fitted
from sparklet.connectors.tables.declaration import DELETED, Commit, Declaration, shard_name
from sparklet.job.errors import TableError
from sparklet.job.event_objects import escaped
from sparklet.job.session import backquoted, session_options

FILE, ROW, FILES, COUNT, RANK = (f"_sparklet_{name}" for name in ("file", "row", "files", "count", "rank"))
# By types of keys whose bounds a scan is given. Delta leaves out files by literals alone, not by casts.
LITERALS = {"tinyint": "{}Y", "smallint": "{}S", "int": "{}", "bigint": "{}L", "date": "DATE'{}'", "string": "'{}'"}
PADDED = "__CHAR_VARCHAR_TYPE_STRING"  # in the metadata of CHAR(n), whose values are compared as if they were padded
# A table of hashes of the changes, which are few, instead of a sort of all rows in the files that they touch.
MERGE_OPTIONS = {"spark.sql.join.preferSortMergeJoin": "false"}

Rows = Callable[[Sequence[Declaration]], DataFrame]  # of writes that were made for the same columns


def staged_columns(write: Declaration) -> StructType:
    """The columns of rows that Spark has staged."""
    return StructType.fromJson(json.loads(write.seen))


def staged_rows(spark: SparkSession, writes: Sequence[Declaration], columns: StructType | None = None) -> DataFrame:
    """The rows of files of Spark's, with ``columns`` or those of the first write; behind them DELETED, FILE, ROW."""
    columns = columns or staged_columns(writes[0])
    if writes[0].deletes:
        columns = StructType([*columns.fields, StructField(DELETED, BooleanType())])
    files = [escaped(f"{write.folder.rstrip('/')}/{path}") for write in writes for path, _ in write.files]
    frame = spark.read.schema(columns).parquet(*files)
    file_and_row = functions.col("_metadata.file_path").alias(FILE), functions.col("_metadata.row_index").alias(ROW)
    return frame.select("*", *file_and_row)


def read_all(writes: Sequence[Declaration], columns: StructType, rows: Rows, *names: str) -> DataFrame:
    """The rows of some writes with the table's columns; ``names``: with these alone."""
    alike: dict[tuple[str, bool], list[Declaration]] = {}
    for write in writes:
        alike.setdefault((write.seen, bool(write.described)), []).append(write)
    frames = (
        fitted(rows(same), columns, f"{same[0].table}, {shard_name(same[0].shard)}", merge_schema=True)
        for same in alike.values()
    )
    return reduce(DataFrame.unionByName, (frame.select(*names or "*") for frame in frames))


def upserted_rows(commit: Commit, columns: StructType, rows: Rows) -> DataFrame:
    """The rows of an upsert, one of each key: see ``last_rows`` and ``read_all``."""
    staged = read_all(commit.writes, columns, rows)
    if not commit.earlier or commit.order_by is not None:
        return last_rows(commit, staged)
    # No more of what is in the table already: its other columns are not this commit's.
    names = [*map(backquoted, commit.keys), FILE]
    before = read_all(commit.earlier, columns, rows, *names)
    return last_rows(commit, staged, staged.select(*names).unionByName(before))


def overwriting_rows(commit: Commit, columns: StructType, rows: Rows, partitions: Sequence[str]) -> DataFrame:
    """The rows of new partitions: the staged ones, and those that the run wrote there before.

    ``partitions``: the values by which the table is partitioned, in SQL. TableError if it is not.
    """
    if not partitions:
        raise TableError(f"{commit.table} has no partitions that could be overwritten")
    staged = read_all(commit.writes, columns, rows)
    if commit.earlier:
        values = {f"_sparklet_part_{number}": functions.expr(value) for number, value in enumerate(partitions)}
        touched = staged.select(*(value.alias(name) for name, value in values.items())).distinct()
        same = [value.eqNullSafe(touched[name]) for name, value in values.items()]
        before = read_all(commit.earlier, columns, rows).join(functions.broadcast(touched), same, "left_semi")
        staged = staged.unionByName(before)
    return staged.drop(FILE, ROW)


def kept_rows(changes: DataFrame) -> DataFrame:
    """The rows of an upsert that a new table gets."""
    return changes.where(f"NOT {DELETED}").drop(DELETED) if DELETED in changes.columns else changes


@contextmanager
def merging(commit: Commit, rows: DataFrame, table: StructType) -> Iterator[str]:
    """What follows ``MERGE INTO … t`` in an upsert of the rows into a table with these columns, within the block."""
    names = [backquoted(name) for name in rows.columns if name != DELETED]
    same = [f"t.{key} = s.{key}" for key in map(backquoted, commit.keys)]
    newer, order = "", backquoted(commit.order_by or "")
    if commit.order_by and commit.order_by.lower() in (name.lower() for name in table.names):
        newer = f"AND (t.{order} IS NULL OR s.{order} >= t.{order})"  # else it is null in all rows
    deleted, new = "", ""
    if commit.deletes:
        deleted, new = f"WHEN MATCHED {newer} AND s.{DELETED} THEN DELETE ", f" AND NOT s.{DELETED}"
    on, view = " AND ".join([*same, *key_bounds(rows, commit.keys, table)]), f"_sparklet_{uuid4().hex}"
    rows.createOrReplaceTempView(view)
    try:
        with session_options(rows.sparkSession, MERGE_OPTIONS):
            yield (
                f"USING {view} s ON {on} {deleted}"  # noqa: S608 - names, in quotes
                f"WHEN MATCHED {newer} THEN UPDATE SET {', '.join(f'{name} = s.{name}' for name in names)} "
                f"WHEN NOT MATCHED{new} THEN INSERT ({', '.join(names)}) "
                f"VALUES ({', '.join(f's.{name}' for name in names)})"
            )
    finally:
        rows.sparkSession.catalog.dropTempView(view)


def last_rows(commit: Commit, rows: DataFrame, whole_run: DataFrame | None = None) -> DataFrame:
    """Of the staged rows with one key the one with the greatest ``order_by``, of equal ones the later; no FILE, no ROW.

    TableError if a part of a key is null, or if without ``order_by`` a key comes twice, ``whole_run``: in the run.
    """
    names = {name.lower() for name in rows.columns}
    if missing := [name for name in (*commit.keys, commit.order_by) if name and name.lower() not in names]:
        raise TableError(f"{commit.table}: keys or order_by name {missing[0]!r}, a column that no shard has")
    keys = [functions.col(backquoted(name)) for name in commit.keys]
    nulls = [functions.count(functions.when(key.isNull(), 1)).alias(str(number)) for number, key in enumerate(keys)]
    # A null equals nothing in a MERGE: each commit would add such a row again.
    for name, count in zip(commit.keys, rows.agg(*nulls).first() or ()):  # noqa: B905 - Python 3.9
        if count:
            raise TableError(f"{commit.table}: the key {name!r} is null in {count} rows: leave them out, or fill it")
    if commit.order_by is None:
        read = (rows if whole_run is None else whole_run).select(*keys, FILE)
        groups = read.groupBy(*keys).agg(functions.count("*").alias(COUNT), functions.collect_set(FILE).alias(FILES))
        if twice := groups.where(f"{COUNT} > 1").first():
            raise TableError(_twice(commit, twice))
        return rows.drop(FILE, ROW)
    # A tie is broken by the place of the row, so that a repeated commit chooses the same one.
    order = [functions.desc_nulls_last(backquoted(commit.order_by)), functions.desc(FILE), functions.desc(ROW)]
    latest = Window.partitionBy(*keys).orderBy(*order)
    return rows.withColumn(RANK, functions.row_number().over(latest)).where(f"{RANK} = 1").drop(RANK, FILE, ROW)


def key_bounds(rows: DataFrame, keys: Sequence[str], table: StructType) -> Iterator[str]:
    """Conditions on the keys of ``t``, by which a scan leaves out files: those between the least and the greatest."""
    in_rows, in_table = (
        {field.name.lower(): field.dataType.simpleString() for field in schema.fields if PADDED not in field.metadata}
        for schema in (rows.schema, table)
    )
    types = {key: in_rows.get(key.lower(), "") for key in keys}
    bounded = [key for key in keys if types[key] in LITERALS and types[key] == in_table.get(key.lower())]
    if not bounded:
        return
    ends = [f"CAST({end}({backquoted(key)}) AS STRING)" for key in bounded for end in ("min", "max")]
    bounds = rows.selectExpr(*ends).first() or ()
    if None in bounds:  # there are no rows
        return
    texts = [text.replace("\\", "\\\\").replace("'", "\\'") for text in bounds]
    for key, *ends in zip(bounded, texts[::2], texts[1::2]):  # noqa: B905 - Python 3.9
        least, greatest = (LITERALS[types[key]].format(end) for end in ends)
        yield f"t.{backquoted(key)} BETWEEN {least} AND {greatest}"


def _twice(commit: Commit, row: Any) -> str:
    """What is wrong with a key; the row has its files, as Spark names them."""
    of = {_path(f"{w.folder}/{name}"): w.shard for w in (*commit.earlier, *commit.writes) for name, _ in w.files}
    shards = sorted({of[_path(unquote(uri))] for uri in row[FILES]})
    key = ", ".join(f"{name}={row[name]!r}" for name in commit.keys)
    where = " and ".join(map(shard_name, shards))
    return f"{commit.table}: the key {key} is twice in {where}: pass order_by=, the greatest wins"


def _path(uri: str) -> str:
    return re.sub("^[a-z0-9]+:", "", uri).lstrip("/")
