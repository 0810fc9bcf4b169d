"""The staged rows that a commit reads and writes anew; for an upsert one row for each key.

Spark itself compares and sorts the values: NaN is the greatest, and -0.0 equals 0.0.
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

from sparklet.connectors.tables.columns import fit_columns
from sparklet.connectors.tables.declaration import DELETED, Commit, Declaration, shard_name
from sparklet.job.errors import TableError
from sparklet.job.event_objects import escaped
from sparklet.job.session import backquoted, session_options

FILE, ROW, FILES, COUNT, RANK = (f"_sparklet_{name}" for name in ("file", "row", "files", "count", "rank"))
# The literals of key types whose bounds restrict a scan. Delta skips files only by literals, not by casts.
LITERALS = {"tinyint": "{}Y", "smallint": "{}S", "int": "{}", "bigint": "{}L", "date": "DATE'{}'", "string": "'{}'"}
PADDED = "__CHAR_VARCHAR_TYPE_STRING"  # in the metadata of CHAR(n), whose values are compared as if they were padded
# The changes are few, so they become a hash table; by default Spark would sort all rows of the files that they touch.
MERGE_OPTIONS = {"spark.sql.join.preferSortMergeJoin": "false"}

Rows = Callable[[Sequence[Declaration]], DataFrame]  # reads the rows of writes that were made for the same columns


def staged_columns(write: Declaration) -> StructType:
    """Return the columns of rows that Spark has staged."""
    return StructType.fromJson(json.loads(write.seen))


def staged_rows(spark: SparkSession, writes: Sequence[Declaration], columns: StructType | None = None) -> DataFrame:
    """Return the rows that Spark has staged, with FILE and ROW; ``columns`` are by default those of the first write."""
    columns = columns or staged_columns(writes[0])
    if writes[0].deletes:
        columns = StructType([*columns.fields, StructField(DELETED, BooleanType())])
    files = [escaped(f"{write.folder.rstrip('/')}/{path}") for write in writes for path, _ in write.files]
    frame = spark.read.schema(columns).parquet(*files)
    file_and_row = functions.col("_metadata.file_path").alias(FILE), functions.col("_metadata.row_index").alias(ROW)
    return frame.select("*", *file_and_row)


def read_all(writes: Sequence[Declaration], columns: StructType, rows: Rows, *names: str) -> DataFrame:
    """Return the rows of some writes with the table's columns; if there are ``names``, only with these columns."""
    groups: dict[tuple[str, bool], list[Declaration]] = {}
    for write in writes:
        groups.setdefault((write.seen, bool(write.described)), []).append(write)
    frames = (
        fit_columns(rows(group), columns, f"{group[0].table}, {shard_name(group[0].shard)}", merge_schema=True)
        for group in groups.values()
    )
    return reduce(DataFrame.unionByName, (frame.select(*names or "*") for frame in frames))


def upserted_rows(commit: Commit, columns: StructType, rows: Rows) -> DataFrame:
    """Return the rows of an upsert, one for each key: see ``last_rows`` and ``read_all``."""
    staged = read_all(commit.writes, columns, rows)
    if not commit.earlier or commit.order_by is not None:
        return last_rows(commit, staged)
    # Of the rows that the run has committed before, only the keys are read: no key is allowed to come again.
    names = [*map(backquoted, commit.keys), FILE]
    earlier = read_all(commit.earlier, columns, rows, *names)
    return last_rows(commit, staged, staged.select(*names).unionByName(earlier))


def overwriting_rows(commit: Commit, columns: StructType, rows: Rows, partitions: Sequence[str]) -> DataFrame:
    """Return all rows that the overwritten partitions shall have: the staged ones, and those that the run wrote before.

    ``partitions``: the values by which the table is partitioned, in SQL. TableError if there are none.
    """
    if not partitions:
        raise TableError(f"{commit.table} has no partitions that could be overwritten")
    staged = read_all(commit.writes, columns, rows)
    if commit.earlier:
        values = {f"_sparklet_part_{number}": functions.expr(value) for number, value in enumerate(partitions)}
        touched = staged.select(*(value.alias(name) for name, value in values.items())).distinct()
        same_partition = [value.eqNullSafe(touched[name]) for name, value in values.items()]
        earlier = read_all(commit.earlier, columns, rows)
        staged = staged.unionByName(earlier.join(functions.broadcast(touched), same_partition, "left_semi"))
    return staged.drop(FILE, ROW)


def rows_of_new_table(changes: DataFrame) -> DataFrame:
    """Return the rows with which an upsert fills a new table: all but those that mark a deletion."""
    return changes.where(f"NOT {DELETED}").drop(DELETED) if DELETED in changes.columns else changes


@contextmanager
def merge_clauses(commit: Commit, rows: DataFrame, table: StructType) -> Iterator[str]:
    """Yield what follows ``MERGE INTO … t`` in an upsert of the rows; the statement must be executed in the block.

    ``table``: the table's columns.
    """
    names = [backquoted(name) for name in rows.columns if name != DELETED]
    same_keys = [f"t.{key} = s.{key}" for key in map(backquoted, commit.keys)]
    and_newer, order = "", backquoted(commit.order_by or "")
    # In a table without this column every row is older.
    if commit.order_by and commit.order_by.lower() in (name.lower() for name in table.names):
        and_newer = f"AND (t.{order} IS NULL OR s.{order} >= t.{order})"
    delete, and_not_deleted = "", ""
    if commit.deletes:
        delete, and_not_deleted = f"WHEN MATCHED {and_newer} AND s.{DELETED} THEN DELETE ", f" AND NOT s.{DELETED}"
    on, view = " AND ".join([*same_keys, *key_bounds(rows, commit.keys, table)]), f"_sparklet_{uuid4().hex}"
    rows.createOrReplaceTempView(view)
    try:
        with session_options(rows.sparkSession, MERGE_OPTIONS):
            yield (
                f"USING {view} s ON {on} {delete}"  # noqa: S608 - names, in quotes
                f"WHEN MATCHED {and_newer} THEN UPDATE SET {', '.join(f'{name} = s.{name}' for name in names)} "
                f"WHEN NOT MATCHED{and_not_deleted} THEN INSERT ({', '.join(names)}) "
                f"VALUES ({', '.join(f's.{name}' for name in names)})"
            )
    finally:
        rows.sparkSession.catalog.dropTempView(view)


def last_rows(commit: Commit, rows: DataFrame, whole_run: DataFrame | None = None) -> DataFrame:
    """Return one staged row for each key, the one with the greatest ``order_by``, without FILE and ROW.

    Of rows with equal ``order_by`` the later one is chosen. TableError if a key has a null; or, without ``order_by``,
    if a key comes twice, in ``rows`` or in all rows of the run, ``whole_run``.
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
        all_keys = (rows if whole_run is None else whole_run).select(*keys, FILE)
        counts = functions.count("*").alias(COUNT), functions.collect_set(FILE).alias(FILES)
        if repeated := all_keys.groupBy(*keys).agg(*counts).where(f"{COUNT} > 1").first():
            raise TableError(_repeated_key(commit, repeated))
        return rows.drop(FILE, ROW)
    # Of equal rows the position in the files decides, so that a repeated commit chooses the same row.
    order = [functions.desc_nulls_last(backquoted(commit.order_by)), functions.desc(FILE), functions.desc(ROW)]
    latest = Window.partitionBy(*keys).orderBy(*order)
    return rows.withColumn(RANK, functions.row_number().over(latest)).where(f"{RANK} = 1").drop(RANK, FILE, ROW)


def key_bounds(rows: DataFrame, keys: Sequence[str], table: StructType) -> Iterator[str]:
    """Yield conditions on the keys of ``t``: between the rows' least and greatest, so that a scan skips other files."""
    in_rows, in_table = (
        {field.name.lower(): field.dataType.simpleString() for field in schema.fields if PADDED not in field.metadata}
        for schema in (rows.schema, table)
    )
    types = {key: in_rows.get(key.lower(), "") for key in keys}
    bounded = [key for key in keys if types[key] in LITERALS and types[key] == in_table.get(key.lower())]
    if not bounded:
        return
    bound_columns = [f"CAST({function}({backquoted(key)}) AS STRING)" for key in bounded for function in ("min", "max")]
    bounds = rows.selectExpr(*bound_columns).first() or ()
    if None in bounds:  # there are no rows
        return
    texts = [text.replace("\\", "\\\\").replace("'", "\\'") for text in bounds]
    for key, *key_texts in zip(bounded, texts[::2], texts[1::2]):  # noqa: B905 - Python 3.9
        least, greatest = (LITERALS[types[key]].format(text) for text in key_texts)
        yield f"t.{backquoted(key)} BETWEEN {least} AND {greatest}"


def _repeated_key(commit: Commit, row: Any) -> str:
    """Return the message about a key that comes twice; ``row`` has the key, and its files as Spark names them."""
    writes = (*commit.earlier, *commit.writes)
    shard_by_path = {_path(f"{write.folder}/{name}"): write.shard for write in writes for name, _ in write.files}
    shards = sorted({shard_by_path[_path(unquote(uri))] for uri in row[FILES]})
    key = ", ".join(f"{name}={row[name]!r}" for name in commit.keys)
    where = " and ".join(map(shard_name, shards))
    return f"{commit.table}: the key {key} is twice in {where}: pass order_by=, the greatest wins"


def _path(uri: str) -> str:
    """Return a uri without its scheme and first slashes, in which Spark and Hadoop differ."""
    return re.sub("^[a-z0-9]+:", "", uri).lstrip("/")
