"""Fits columns to a table's: by name and without loss, or with an error that names the remedy."""

from __future__ import annotations

import functools as ft
import json
from collections.abc import Callable, Sequence
from typing import Any, cast

from pyspark.sql import Column, DataFrame, functions
from pyspark.sql.types import ArrayType, DataType, MapType, NullType, StructField, StructType

from sparklet.connectors.tables.declaration import DELETED, Commit, Declaration, shard_name
from sparklet.job.errors import TableError
from sparklet.job.session import backquoted

FILLED = ("delta.generationExpression", "delta.identity.start", "CURRENT_DEFAULT")  # Delta itself has the values
_DIGITS = {"tinyint": 3, "smallint": 5, "int": 10, "bigint": 19}  # of the greatest value
_EXACT_IN = {"float": ("tinyint", "smallint"), "double": ("tinyint", "smallint", "int", "float")}


def aligned(frame: DataFrame, table_schema: StructType, merge_schema: bool) -> DataFrame:
    """The frame with exactly the table's columns, and with ``merge_schema`` its own new ones behind them."""
    exact = frame.sparkSession.conf.get("spark.sql.caseSensitive", "false") == "true"
    pairs = matched(frame.schema, table_schema, merge_schema, exact)
    columns: list[Column] = []
    nested = list[StructField]()
    for frame_field, field in pairs:
        column = functions.lit(None) if frame_field is None else functions.col(backquoted(frame_field.name))
        if frame_field is None or frame_field.dataType.simpleString() != field.dataType.simpleString():
            if frame_field is not None and _shape(frame_field.dataType) == _shape(field.dataType):
                nested.append(field)  # a cast would go by the places of a struct's fields
            else:
                column = column.cast(field.dataType)
        # A column of another table brings metadata, such as its name in files, that hold for that table alone.
        columns.append(column.alias(field.name, metadata={}))
    frame = frame.select(*columns)
    if not nested:
        return frame
    by_name = {field.name: field.dataType for field in nested}
    fields = [StructField(field.name, by_name.get(field.name, field.dataType)) for field in frame.schema.fields]
    free = StructType(fields).json().replace('ullable":false', 'ullable":true').replace('Null":false', 'Null":true')
    return frame.to(StructType.fromJson(json.loads(free)))  # ``required`` looks for nulls


def matched(
    frame_schema: StructType, table_schema: StructType, merge_schema: bool = False, exact: bool = False
) -> list[tuple[StructField | None, StructField]]:
    """Each column of the files with the frame's own, or None. ``exact``: upper and lower case differ.

    TableError if a column is unknown to the table, lacks required values, or has a type that does not fit.
    """
    key: Callable[[str], str] = str if exact else str.lower
    fields = {key(field.name): field for field in frame_schema.fields}
    if len(fields) < len(frame_schema.fields):
        raise TableError(f"the frame has two columns of one name among {', '.join(frame_schema.fieldNames())}")
    pairs: list[tuple[StructField | None, StructField]] = []
    for field in table_schema.fields:
        frame_field = fields.pop(key(field.name), None)
        if frame_field is None and not field.nullable:
            raise TableError(f"the frame lacks the column {field.name!r}, which the table requires")
        if frame_field is not None and not fits(frame_field.dataType, field.dataType):
            types = (
                f"{frame_field.dataType.simpleString()} in the frame and {field.dataType.simpleString()} in the table"
            )
            raise TableError(f"the column {field.name!r} is {types}: cast it in the script")
        pairs.append((frame_field, field))
    if fields and not merge_schema:
        more = ", ".join(repr(field.name) for field in fields.values())
        raise TableError(f"the table has no column {more}: drop it, or pass merge_schema=True to add it to the table")
    return [*pairs, *((field, StructField(field.name, field.dataType)) for field in fields.values())]


def fits(source_type: DataType, target_type: DataType) -> bool:
    """Whether every value of one type is one of the other. Structs, lists and maps must have the same types inside.

    A struct's fields are known by their names, in any order.
    """
    one, other = source_type.simpleString(), target_type.simpleString()
    if one in (other, "void") or _shape(source_type) == _shape(target_type):
        return True
    if other.startswith("decimal"):
        whole, scale = _places(source_type)
        max_whole, max_scale = _places(target_type)
        return whole + scale > 0 and whole <= max_whole and scale <= max_scale
    if one in _DIGITS and other in _DIGITS:
        return _DIGITS[one] <= _DIGITS[other]
    return one in _EXACT_IN.get(other, ())


def _shape(of: Any) -> Any:
    """A type, the same for structs whose fields differ in order alone."""
    if isinstance(of, StructType):
        return sorted((field.name, repr(_shape(field.dataType))) for field in of.fields)
    if isinstance(of, ArrayType):
        return ["array", _shape(of.elementType)]
    if isinstance(of, MapType):
        return ["map", _shape(of.keyType), _shape(of.valueType)]
    return of.simpleString()


def _places(of: Any) -> tuple[int, int]:
    """The digits before and after the point; 0 and 0 for a type that is no exact number."""
    if of.simpleString().startswith("decimal"):
        return of.precision - of.scale, of.scale
    return _DIGITS.get(of.simpleString(), 0), 0


def agreed(
    commit: Commit,
    writes: Sequence[Declaration],
    table: StructType | None,
    columns_of: Callable[[Declaration], StructType],
) -> StructType:
    """The columns of the table with these writes in it; ``table``: its own, if it exists.

    TableError if types of a column differ, or if only some writes have a column and ``merge_schema`` is off.
    """
    fields = {field.name.lower(): field for field in (table.fields if table else ())}
    origin = dict.fromkeys(fields, f"the table {commit.table}")
    for number, write in enumerate(writes):
        shard, columns = shard_name(write.shard), columns_of(write)
        for field in columns.fields:
            key = field.name.lower()
            if key not in fields:
                if (table or number) and not commit.merge_schema:
                    first = f"the table {commit.table}" if table else shard_name(writes[0].shard)
                    raise TableError(
                        f"{shard} has the column {field.name!r} ({field.dataType.simpleString()}), which {first} has "
                        "not: select the table's columns, or write with merge_schema=True"
                    )
                fields[key], origin[key] = StructField(field.name, field.dataType), shard
            elif not table and isinstance(fields[key].dataType, NullType):  # another shard has a type
                fields[key] = StructField(fields[key].name, field.dataType)
            elif not fits(field.dataType, fields[key].dataType):
                have, want = (column.dataType.simpleString() for column in (field, fields[key]))
                differ = f"as {have}, {origin[key]} as {want}: cast it in the script"
                raise TableError(f"{shard} has the column {field.name!r} {differ}")
        held, is_exact = {field.name.lower() for field in columns.fields}, not table and not commit.merge_schema
        for key, field in fields.items():
            is_needed = is_exact or not (field.nullable or any(name in field.metadata for name in FILLED))
            if is_needed and key not in held:
                raise TableError(f"{shard} lacks the column {field.name!r}")
    return StructType(list(fields.values()))


def without_hudi_columns(frame: DataFrame) -> DataFrame:
    """The frame without the columns that Hudi has set, and will set anew."""
    return frame.drop(*(name for name in frame.columns if name.startswith("_hoodie_")))


def required(frame: DataFrame, schema: StructType) -> DataFrame:
    """The aligned frame; a row fails that lacks a value which the table requires, inside of others, too.

    A row that only deletes another may lack them.
    """
    types = {field.name: field for field in schema.fields}
    columns = []
    for name in frame.columns:
        column = functions.col(backquoted(name))
        lacks = _lacks(column, types[name].dataType, types[name].nullable) if name in types else None
        if lacks is not None:
            lacks = lacks & ~functions.col(DELETED) if DELETED in frame.columns else lacks
            # In the plan of the write, so that such a row fails its own shard, not the commit of all.
            text = f"the column {name!r} is null in a row, or holds a null, and the table requires a value"
            error = functions.raise_error(functions.lit(text)).cast(types[name].dataType)
            column = functions.when(lacks, error).otherwise(column).alias(name)
        columns.append(column)
    return frame.select(*columns)


def _lacks(value: Column, of: DataType, nullable: bool) -> Column | None:
    """Whether a value is null, or holds a null, where its type allows none; None if it allows all."""
    parts = [] if nullable else [value.isNull()]
    if isinstance(of, StructType):
        fields = (_lacks(value.getField(field.name), field.dataType, field.nullable) for field in of.fields)
        # The fields of a null struct are null, too, and only the struct's own type says whether it may be.
        parts += [value.isNotNull() & field for field in fields if field is not None]
    elif isinstance(of, ArrayType):
        parts += _any_lacks(value, of.elementType, of.containsNull)
    elif isinstance(of, MapType):
        parts += _any_lacks(functions.map_values(value), of.valueType, of.valueContainsNull)
        parts += _any_lacks(functions.map_keys(value), of.keyType, nullable=True)
    return ft.reduce(Column.__or__, parts) if parts else None


def _any_lacks(values: Column, of: DataType, nullable: bool) -> list[Column]:
    one = _lacks(functions.col("each"), of, nullable)
    return [] if one is None else [functions.exists(values, lambda value: cast("Column", _lacks(value, of, nullable)))]
