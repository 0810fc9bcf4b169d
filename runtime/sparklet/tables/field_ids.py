"""Iceberg's field ids in the files that Spark writes; readers find columns by them, even once they are renamed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pyspark.sql import DataFrame, SparkSession, functions
from pyspark.sql.types import StructField, StructType

from sparklet.tables.columns import quoted
from sparklet.tables.declaration import ColumnPath, IdsOf

FIELD_ID = "parquet.field.id"  # the metadata of a column that Spark's writer looks at
COPIED = ".ids.parquet"
MAX_COPIES = 8  # of files at a time
_INSIDE = {"list": ("element",), "map": ("key", "value")}


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
        column = functions.col(quoted(field.name))
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
