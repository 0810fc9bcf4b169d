"""Fits a frame's columns to a table's columns, as Spark's INSERT does; each error has a remedy."""

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
FILLED = ("delta.generationExpression", "delta.identity.start", "CURRENT_DEFAULT")  # Delta itself fills such columns
REMEDY = "select the table's columns and cast them in the script; merge_schema=True adds new ones"


def fit_columns(frame: DataFrame, schema: StructType, context: str, *, merge_schema: bool = False) -> DataFrame:
    """Return the frame with the columns of ``schema``, resolved by name as for Spark's INSERT.

    With ``merge_schema`` the frame's new columns follow. Spark casts the values. A row fails if a value overflows, or
    if a value that the table requires is null; but a row that only deletes another row may have nulls. TableError if
    columns do not fit; its message begins with ``context``.
    """
    spark: Any = frame.sparkSession
    is_exact = spark.conf.get("spark.sql.caseSensitive", "false") == "true"
    table_names, deletes = {name if is_exact else name.lower() for name in schema.names}, DELETED in frame.columns
    # Columns can have metadata, such as their names in files, that are valid only for the table they come from.
    plain = StructType([StructField(field.name, field.dataType, field.nullable) for field in schema.fields])
    target = spark._jvm.org.apache.spark.sql.types.DataType.fromJson(plain.json())
    target, frame_schema = target.asNullable() if deletes else target, frame._jdf.schema()
    for name in frame.columns:
        if name == DELETED or (merge_schema and (name if is_exact else name.lower()) not in table_names):
            target = target.add(name, frame_schema.apply(name).dataType(), True)
    attributes = scala_object(spark, f"{CATALYST}.types.DataTypeUtils").toAttributes(target)
    query, conf = frame._jdf.queryExecution().analyzed(), spark._jsparkSession.sessionState().conf()
    resolver = scala_object(spark, f"{CATALYST}.analysis.TableOutputResolver")
    try:
        plan = resolver.resolveOutputColumns("table", attributes, query, True, conf, True)
    except PySparkException as error:
        raise TableError(f"{context}: {str(error).rstrip('.')}: {REMEDY}") from error
    frame = frame_of_plan(spark, plan)
    if not deletes:
        return frame
    columns = {name: functions.col(backquoted(name)) for name in frame.columns}
    for field in schema.fields:
        if not field.nullable:
            text = functions.lit(f"the column {field.name!r} is null in a row, and the table requires a value")
            is_missing = columns[field.name].isNull() & ~columns[DELETED]
            failing = functions.when(is_missing, functions.raise_error(text).cast(field.dataType))
            columns[field.name] = failing.otherwise(columns[field.name]).alias(field.name)
    return frame.select(*columns.values())


def agreed_columns(
    commit: Commit,
    writes: Sequence[Declaration],
    table: StructType | None,
    columns_of: Callable[[Declaration], StructType],
) -> StructType:
    """Return the columns that the table will have after these writes. ``table``: its present columns, if it exists.

    TableError if the writes have different types for a new column. Without ``merge_schema`` also if a write has a
    column that the table lacks; a new table gets the columns of its first write.
    """
    fields = {field.name.lower(): field for field in (table.fields if table else ())}
    table_names, shard_by_name = set(fields), dict[str, str]()
    # Writes that have seen the same state have the same columns, so only the first of them is compared.
    first_by_state = {write.seen: write for write in reversed(writes)}
    for write in (write for write in writes if first_by_state[write.seen] is write):
        shard, is_first = shard_name(write.shard), not fields
        for field in columns_of(write).fields:
            name = field.name.lower()
            if name not in fields and not (is_first or commit.merge_schema):
                raise TableError(f"{commit.table}: {shard} has the column {field.name!r}, which others lack: {REMEDY}")
            old, is_new = fields.get(name), name not in table_names
            if old is None or (is_new and isinstance(old.dataType, NullType)):
                fields[name] = StructField(old.name if old else field.name, field.dataType)
                shard_by_name[name] = shard
            elif is_new and not isinstance(field.dataType, NullType):
                new_type, old_type = field.dataType.simpleString(), old.dataType.simpleString()
                if new_type != old_type:
                    differ = f"as {new_type}, {shard_by_name[name]} as {old_type}: cast it in the script"
                    raise TableError(f"{commit.table}: {shard} has the column {field.name!r} {differ}")
    return StructType(list(fields.values()))


def without_hudi_columns(frame: DataFrame) -> DataFrame:
    """Return the frame without the columns that Hudi has set, and will set anew."""
    return frame.drop(*(name for name in frame.columns if name.startswith("_hoodie_")))
