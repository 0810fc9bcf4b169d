"""Where a table's files lie, and how they are partitioned, as the script's JVM knows it.

pyiceberg knows it as well, but its import takes each process a second.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from sparklet.connectors.tables.declaration import HUDI_DELETED, Declaration, Partition, refuse_hudi
from sparklet.connectors.tables.delta import check_writable, is_described, refusals, wanted
from sparklet.connectors.tables.iceberg_draft import (
    Draft,
    Seen,
    catalog_of,
    iceberg_columns,
    is_in_bucket,
    load_table,
    root_of,
    spark_columns,
)
from sparklet.job.errors import TableError
from sparklet.job.fields import Table
from sparklet.job.session import DELTA, ICEBERG, hadoop_path, has_class, java_class, stored_text

WAP, WAP_ENABLED = ("spark.wap.id", "spark.wap.branch"), "write.wap.enabled"  # write, audit, publish


@dataclass(frozen=True)
class Layout:
    """``root``: where the table's data files lie; "": no files may be staged there. ``schema``: None without a table.

    ``is_described``: whether a shard's append makes Delta's own files; else the commit writes its rows.
    ``names``: the columns of a table that exists, in lower case; of Hudi's where an upsert deletes.
    ``draft``: Iceberg's table, or the one that its catalog would make; ``unmade``: what the catalog tells nothing of.
    """

    root: str
    schema: StructType | None
    partitions: tuple[Partition, ...] = ()
    is_described: bool = True
    names: frozenset[str] | None = None
    draft: Draft | None = None
    unmade: Seen | None = None

    @property
    def seen(self) -> str:
        """See ``Declaration``."""
        state = self.draft.seen() if self.draft else self.unmade
        return state.text() if state else ""


def layout_of(frame: DataFrame, write: Declaration) -> Layout:
    """The layout of the table, or of the table that a commit will make for this frame.

    TableError if the format's jars are missing, if no commit can write to the table, or if ``partition_by`` is wrong.
    """
    spark, table, partition_by = frame.sparkSession, write.table, write.partition_by
    if table.format == "hudi":  # the commit writes its rows, and reads its schema
        refuse_hudi(table, write, _hudi_properties(spark, table.place))
        if odd := [name for name, type_ in frame.dtypes if "interval " in type_]:  # a number, in Parquet
            raise TableError(f"Hudi cannot have the column {odd[0]!r} of the frame, an interval: cast it in the script")
        return Layout(table.place, None, names=_hudi_names(spark, write) if write.deletes else None)
    needed = {"delta": DELTA, "iceberg": ICEBERG}[table.format]
    if not has_class(spark._jvm, needed):
        raise TableError(f"{table} needs the jars of {table.format} on Spark's class path: see the guide to tables")
    layout = _delta(spark, table, frame) if table.format == "delta" else _iceberg(frame, table, partition_by)
    if layout.schema is None:
        return replace(layout, partitions=tuple(map(Partition, partition_by)))
    table_partitions = [(partition.column.lower(), partition.transform) for partition in layout.partitions]
    if partition_by and table_partitions != [(name.lower(), "identity") for name in partition_by]:
        by = ", ".join(f"{partition.transform}({partition.column})" for partition in layout.partitions) or "nothing"
        raise TableError(f"{table} is partitioned by {by}, not by {', '.join(partition_by)}: leave partition_by away")
    return layout


def _delta(spark: SparkSession, table: Table, frame: DataFrame) -> Layout:
    with refusals(str(table)):
        log = spark._jvm.org.apache.spark.sql.delta.DeltaLog.forTableWithSnapshot(spark._jsparkSession, table.place)
        snapshot = log._2()
        if snapshot.version() < 0:
            return Layout(table.place, None)
        check_writable(table.place, log._1(), snapshot)
    metadata = json.loads(snapshot.metadata().json())["metaData"]
    schema = StructType.fromJson(json.loads(metadata["schemaString"]))
    return Layout(
        table.place,
        wanted(schema, frame),
        tuple(map(Partition, metadata["partitionColumns"])),
        is_described(schema, frame),
        frozenset(map(str.lower, schema.names)),
    )


def _hudi_properties(spark: SparkSession, folder: str) -> dict[str, str]:
    """A Hudi table's own properties; none without a table."""
    path, files = hadoop_path(spark, uri := f"{folder}/.hoodie/hoodie.properties")
    lines = stored_text(spark, uri).splitlines() if files.exists(path) else []
    # Java escapes colons, equals signs and the like in properties.
    return {key: value.replace("\\", "") for key, _, value in (line.partition("=") for line in lines)}


def _hudi_names(spark: SparkSession, write: Declaration) -> frozenset[str] | None:
    """The columns of a table; TableError if it lacks the one by which Hudi deletes."""
    if not _hudi_properties(spark, write.table.place):
        return None
    names = frozenset(map(str.lower, spark.read.format("hudi").load(write.table.place).columns))
    if HUDI_DELETED not in names and not write.merge_schema:
        raise TableError(
            f"{write.table} lacks the column {HUDI_DELETED}, by which Hudi deletes rows: pass merge_schema=True, which "
            "adds it"
        )
    return names


def _iceberg(frame: DataFrame, named: Table, partition_by: tuple[str, ...]) -> Layout:
    spark, name = frame.sparkSession, named.place
    iceberg: Any = spark._jvm.org.apache.iceberg
    catalog = catalog_of(spark, name)
    table = load_table(spark, catalog, name)
    if table is not None:
        wap = [option for option in WAP if spark.conf.get(option, None)]
        if wap and table.properties().get(WAP_ENABLED) == "true":
            raise TableError(
                f"{named} has {WAP_ENABLED}, and the session {wap[0]}, but a commit changes main: unset it"
            )
        draft = Draft.of_state(spark, name, table.operations(), table.operations().current())
        root, names = "" if is_in_bucket(spark) else root_of(table), frozenset(map(str.lower, draft.columns.names))
        return Layout(root, draft.columns, draft.partitions, names=names, draft=draft)
    if missing := [column for column in partition_by if column not in frame.columns]:
        raise TableError(f"the frame has no column {', '.join(missing)}, which partition_by names")
    schema = iceberg_columns(spark, frame._jdf.schema().json())  # Python lacks some types
    if is_in_bucket(spark):  # its catalog gives a table a place as it makes it
        made = json.loads(iceberg.SchemaParser.toJson(schema))
        new = Seen("", 0, 2, made, {"spec-id": 0, "fields": []})
        return Layout("", spark_columns(iceberg, schema), tuple(map(Partition, partition_by)), unmade=new)
    new_table = table_to_be(spark, catalog, name, schema, partition_by)
    # Another script has made it meanwhile, and its layout counts.
    if new_table is None:
        return _iceberg(frame, named, partition_by)
    return Layout(root_of(new_table.table), new_table.columns, new_table.partitions, draft=new_table)


def table_to_be(spark: SparkSession, catalog: Any, name: str, schema: Any, by: tuple[str, ...]) -> Draft | None:
    """The table as the catalog would make it, so that files lie where the commit makes it; None if it exists by now."""
    try:
        return Draft.of_new_table(spark, catalog, name, schema, by)
    except Py4JJavaError as error:
        if java_class(error) == "AlreadyExistsException":
            return None
        if java_class(error) == "IllegalStateException":  # a type that the format's version lacks
            raise TableError(f"{name} cannot be made of the frame: {error.java_exception.getMessage()}") from error
        raise TableError(
            f"{name} does not exist, and its catalog does not say where it would be: {error.java_exception}; "
            "make the table, or its database, before"
        ) from error
