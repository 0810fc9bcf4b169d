"""Fits a frame's columns to a table's: by name and without loss, or with an error that names the remedy.

Columns of Iceberg get its field ids in the files that Spark writes: readers find them by these, even once renamed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession, functions
from pyspark.sql.types import DataType, StructField, StructType

from sparklet.job.errors import TableError
from sparklet.job.session import backquoted
from sparklet.tables.declaration import ColumnPath, IdsOf

_DIGITS = {"tinyint": 3, "smallint": 5, "int": 10, "bigint": 19}  # of the greatest value
_EXACT_IN = {"float": ("tinyint", "smallint"), "double": ("tinyint", "smallint", "int", "float")}
FIELD_ID = "parquet.field.id"  # the metadata of a column that Spark's writer looks at
COPIED = ".ids.parquet"
MAX_COPIES = 8  # of files at a time
_INSIDE = {"list": ("element",), "map": ("key", "value")}


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
    return required(frame.select(*columns), [field for _, field in pairs])


def widened(frame: DataFrame) -> DataFrame:
    """The frame for a new Iceberg table, which has no integers below 32 bits."""
    short = [field.name for field in frame.schema.fields if field.dataType.simpleString() in ("tinyint", "smallint")]
    for name in short:
        frame = frame.withColumn(name, frame[backquoted(name)].cast("int"))
    return frame


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


def required(frame: DataFrame, fields: list[StructField]) -> DataFrame:
    """The frame with these nullabilities: Spark then fails at a null where the table allows none."""
    schema = StructType([StructField(field.name, field.dataType, field.nullable) for field in fields])
    if not re.search('(nullable|ontainsNull)":false', schema.json()):
        return frame
    spark = frame.sparkSession
    declared = spark._jsparkSession.parseDataType(schema.json())
    return DataFrame(spark._jsparkSession.createDataFrame(frame._jdf.toJavaRDD(), declared), spark)


# --- Iceberg's field ids ---


def column_ids(schema: Mapping[str, Any], at: ColumnPath = ()) -> dict[ColumnPath, int]:
    """The ids in a schema, or in a type, as Iceberg's JSON has them."""
    kind, found = schema["type"], dict[ColumnPath, int]()
    inner = [(field["name"], field["id"], field["type"]) for field in schema["fields"]] if kind == "struct" else []
    inner += [(name, schema[f"{name}-id"], schema[name]) for name in _INSIDE.get(kind, ())]
    for name, id_, type_ in inner:
        found[(*at, name)] = id_
        if isinstance(type_, Mapping):
            found |= column_ids(type_, (*at, name))
    return found


def with_new(ids: Mapping[ColumnPath, int], columns: Sequence[str], ids_of: IdsOf) -> dict[ColumnPath, int]:
    """The ids of a table, and those of the columns that the commit will add; {} if the table has none."""
    new = [(name,) for name in columns if (name,) not in ids] if ids else []
    return {**ids, **{path: ids_of[1] + 1 + number for number, path in enumerate(new)}}


def identified(frame: DataFrame, ids: Mapping[ColumnPath, int]) -> DataFrame:
    """The frame, with the ids in the metadata of its columns and of fields of structs."""
    if not ids:
        return frame
    columns = []
    for field in _with_ids(frame.schema, (), ids).fields:
        column = functions.col(backquoted(field.name))
        inside = column.cast(field.dataType) if isinstance(field.dataType, StructType) else column
        columns.append(inside.alias(field.name, metadata=field.metadata))
    return frame.select(*columns)


def _with_ids(type_: Any, path: ColumnPath, ids: Mapping[ColumnPath, int]) -> Any:
    if not isinstance(type_, StructType):
        return type_
    fields = []
    for field in type_.fields:
        here = (*path, field.name)
        metadata = {FIELD_ID: ids[here]} if here in ids else {}
        fields.append(StructField(field.name, _with_ids(field.dataType, here, ids), field.nullable, metadata))
    return StructType(fields)


def is_nested(frame: DataFrame) -> bool:
    """Whether the frame has lists or maps, to whose elements Spark's writer gives no ids."""
    return any(kind in frame.schema.simpleString() for kind in ("array<", "map<"))


def identify(spark: SparkSession, system: Any, paths: Sequence[Any], ids: Mapping[ColumnPath, int]) -> None:
    """Replace files by copies with all ids; only footers are read, and nothing is decoded."""
    with ThreadPoolExecutor(MAX_COPIES) as copiers:
        list(copiers.map(lambda path: _copy(spark._jvm, spark._jsparkSession, path, ids), paths))
    for path in paths:
        system.delete(path, False)


def _copy(jvm: Any, session: Any, path: Any, ids: Mapping[ColumnPath, int]) -> None:
    hadoop, conf = jvm.org.apache.parquet.hadoop, session.sessionState().newHadoopConf()
    create = jvm.java.lang.Class.forName("org.apache.parquet.hadoop.ParquetFileWriter$Mode").getEnumConstants()[0]
    reader = hadoop.ParquetFileReader.open(hadoop.util.HadoopInputFile.fromPath(path, conf))
    try:
        meta = reader.getFooter().getFileMetaData()
        fields = [_type(field, (field.getName(),), ids) for field in meta.getSchema().getFields()]
        schema = jvm.org.apache.parquet.schema.MessageType(meta.getSchema().getName(), fields)
        copy = hadoop.util.HadoopOutputFile.fromPath(path.suffix(COPIED), conf)
        writer = hadoop.ParquetFileWriter(copy, schema, create, copy.defaultBlockSize(), 0)
        writer.start()
        reader.appendTo(writer)
        writer.end(meta.getKeyValueMetaData())
    finally:
        reader.close()


def _type(type_: Any, path: ColumnPath, ids: Mapping[ColumnPath, int]) -> Any:
    """A type of Parquet with its ids; the repeated group inside a list or map has none."""
    if not type_.isPrimitive():
        group = type_.asGroupType()
        repeats = str(group.getLogicalTypeAnnotation()) in ("LIST", "MAP")
        outer = group.getFields()[0].asGroupType() if repeats else group
        outer = outer.withNewFields([_type(field, (*path, field.getName()), ids) for field in outer.getFields()])
        type_ = group.withNewFields([outer]) if repeats else outer
    return type_.withId(ids[path]) if path in ids else type_
