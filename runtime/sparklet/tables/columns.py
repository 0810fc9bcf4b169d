"""Fits a frame's columns to a table's: by name and without loss, or with an error that names the remedy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyspark.sql import Column, DataFrame, functions
from pyspark.sql.types import DataType, StructField, StructType

from sparklet.job.errors import TableError
from sparklet.job.session import backquoted

_DIGITS = {"tinyint": 3, "smallint": 5, "int": 10, "bigint": 19}  # of the greatest value
_EXACT_IN = {"float": ("tinyint", "smallint"), "double": ("tinyint", "smallint", "int", "float")}


def aligned(frame: DataFrame, wanted: StructType, merge_schema: bool) -> DataFrame:
    """The frame with exactly the table's columns, and with ``merge_schema`` its own new ones behind them."""
    exact = frame.sparkSession.conf.get("spark.sql.caseSensitive", "false") == "true"
    pairs = matched(frame.schema, wanted, merge_schema, exact)
    columns: list[Column] = []
    for given, field in pairs:
        column = functions.lit(None) if given is None else functions.col(backquoted(given.name))
        if given is None or given.dataType.simpleString() != field.dataType.simpleString():
            column = column.cast(field.dataType)
        columns.append(column.alias(field.name, metadata={}))
    return frame.select(*columns)


def matched(
    given: StructType, wanted: StructType, merge_schema: bool = False, exact: bool = False
) -> list[tuple[StructField | None, StructField]]:
    """Each column of the files with the frame's own, or None. ``exact``: upper and lower case differ.

    TableError if a column is unknown to the table, lacks required values, or has a type that does not fit.
    """
    key: Callable[[str], str] = str if exact else str.lower
    fields = {key(field.name): field for field in given.fields}
    if len(fields) < len(given.fields):
        raise TableError(f"the frame has two columns of one name among {', '.join(given.fieldNames())}")
    pairs: list[tuple[StructField | None, StructField]] = []
    for field in wanted.fields:
        own = fields.pop(key(field.name), None)
        if own is None and not field.nullable:
            raise TableError(f"the frame lacks the column {field.name!r}, which the table requires")
        if own is not None and not fits(own.dataType, field.dataType):
            types = f"{own.dataType.simpleString()} in the frame and {field.dataType.simpleString()} in the table"
            raise TableError(f"the column {field.name!r} is {types}: cast it in the script")
        pairs.append((own, field))
    if fields and not merge_schema:
        more = ", ".join(repr(field.name) for field in fields.values())
        raise TableError(f"the table has no column {more}: drop it, or pass merge_schema=True to add it to the table")
    return [*pairs, *((own, StructField(own.name, own.dataType)) for own in fields.values())]


def fits(given: DataType, wanted: DataType) -> bool:
    """Whether every value of one type is one of the other. Structs, lists and maps must have the same types inside."""
    one, other = given.simpleString(), wanted.simpleString()
    if one in (other, "void"):
        return True
    if other.startswith("decimal"):
        whole, scale = _places(given)
        max_whole, max_scale = _places(wanted)
        return whole + scale > 0 and whole <= max_whole and scale <= max_scale
    if one in _DIGITS and other in _DIGITS:
        return _DIGITS[one] <= _DIGITS[other]
    return one in _EXACT_IN.get(other, ())


def _places(of: Any) -> tuple[int, int]:
    """The digits before and after the point; 0 and 0 for a type that is no exact number."""
    if of.simpleString().startswith("decimal"):
        return of.precision - of.scale, of.scale
    return _DIGITS.get(of.simpleString(), 0), 0


def required(frame: DataFrame, wanted: StructType) -> DataFrame:
    """The aligned frame; a row fails whose value the table requires and that has none."""
    needed = {field.name: field.dataType for field in wanted.fields if not field.nullable}
    columns = []
    for name in frame.columns:
        column = functions.col(backquoted(name))
        if name in needed:
            lack = functions.raise_error(
                functions.lit(f"the column {name!r} is null in a row, and the table requires it")
            )
            column = functions.coalesce(column, lack.cast(needed[name])).alias(name)
        columns.append(column)
    return frame.select(*columns) if needed else frame
