"""Fits columns to a table's, as Spark's INSERT does it; an error names the remedy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, functions
from pyspark.sql.types import NullType, StructField, StructType

from sparklet.connectors.tables.declaration import DELETED, Commit, Declaration, shard_name
from sparklet.job.errors import TableError
from sparklet.job.session import backquoted, frame_of_plan, scala_object

CATALYST = "org.apache.spark.sql.catalyst"
FILLED = ("delta.generationExpression", "delta.identity.start", "CURRENT_DEFAULT")  # Delta itself has the values
REMEDY = "select the table's columns and cast them in the script; merge_schema=True adds new ones"


def fitted(frame: DataFrame, schema: StructType, whose: str, *, merge_schema: bool = False) -> DataFrame:
    """The frame with these columns, as Spark resolves those of an INSERT by name; behind them its own new ones, if so.

    Spark casts, and has a row fail whose value overflows, or that lacks a value which the table requires; a row that
    only deletes another may lack it. TableError, which names ``whose`` frame it is, if columns do not fit.
    """
    spark: Any = frame.sparkSession
    is_exact = spark.conf.get("spark.sql.caseSensitive", "false") == "true"
    there, deletes = {name if is_exact else name.lower() for name in schema.names}, DELETED in frame.columns
    # A column of another table brings metadata, such as its name in files, that hold for that table alone.
    plain = StructType([StructField(field.name, field.dataType, field.nullable) for field in schema.fields])
    wanted = spark._jvm.org.apache.spark.sql.types.DataType.fromJson(plain.json())
    wanted, own = wanted.asNullable() if deletes else wanted, frame._jdf.schema()
    for name in frame.columns:
        if name == DELETED or (merge_schema and (name if is_exact else name.lower()) not in there):
            wanted = wanted.add(name, own.apply(name).dataType(), True)
    attributes = scala_object(spark, f"{CATALYST}.types.DataTypeUtils").toAttributes(wanted)
    query, conf = frame._jdf.queryExecution().analyzed(), spark._jsparkSession.sessionState().conf()
    resolver = scala_object(spark, f"{CATALYST}.analysis.TableOutputResolver")
    try:
        plan = resolver.resolveOutputColumns("table", attributes, query, True, conf, True)
    except PySparkException as error:
        raise TableError(f"{whose}: {str(error).rstrip('.')}: {REMEDY}") from error
    frame = frame_of_plan(spark, plan)
    if not deletes:
        return frame
    columns = {name: functions.col(backquoted(name)) for name in frame.columns}
    for field in schema.fields:
        if not field.nullable:
            text = functions.lit(f"the column {field.name!r} is null in a row, and the table requires a value")
            lacks = columns[field.name].isNull() & ~columns[DELETED]
            failing = functions.when(lacks, functions.raise_error(text).cast(field.dataType))
            columns[field.name] = failing.otherwise(columns[field.name]).alias(field.name)
    return frame.select(*columns.values())


def agreed(
    commit: Commit,
    writes: Sequence[Declaration],
    table: StructType | None,
    columns_of: Callable[[Declaration], StructType],
) -> StructType:
    """The columns of the table with these writes in it; ``table``: its own, if it exists.

    TableError if types of new columns differ, or if only some writes have one and ``merge_schema`` is off.
    """
    fields = {field.name.lower(): field for field in (table.fields if table else ())}
    of_table, shards = set(fields), dict[str, str]()
    firsts = {write.seen: write for write in reversed(writes)}
    for write in (write for write in writes if firsts[write.seen] is write):
        shard, is_first = shard_name(write.shard), not fields
        for field in columns_of(write).fields:
            key = field.name.lower()
            if key not in fields and not (is_first or commit.merge_schema):
                raise TableError(f"{commit.table}: {shard} has the column {field.name!r}, which others lack: {REMEDY}")
            old = fields.get(key)
            if old is None or (key not in of_table and isinstance(old.dataType, NullType)):
                fields[key], shards[key] = StructField(old.name if old else field.name, field.dataType), shard
            elif key not in of_table and not isinstance(field.dataType, NullType):
                have, want = (each.dataType.simpleString() for each in (field, old))
                if have != want:
                    differ = f"as {have}, {shards[key]} as {want}: cast it in the script"
                    raise TableError(f"{commit.table}: {shard} has the column {field.name!r} {differ}")
    return StructType(list(fields.values()))


def without_hudi_columns(frame: DataFrame) -> DataFrame:
    """The frame without the columns that Hudi has set, and will set anew."""
    return frame.drop(*(name for name in frame.columns if name.startswith("_hoodie_")))
