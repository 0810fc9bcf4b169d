"""Where a table's files are, and how they are partitioned, as the script's JVM knows it.

pyiceberg knows this as well, but its import takes a second in each process.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from sparklet.connectors.tables.declaration import HUDI_DELETED, Declaration, Partition, refuse_hudi
from sparklet.connectors.tables.delta import can_describe, check_writable, own_errors, required_columns
from sparklet.connectors.tables.iceberg_draft import (
    Draft,
    SeenTable,
    catalog_of,
    data_folder,
    iceberg_columns,
    is_in_bucket,
    load_table,
    spark_columns,
)
from sparklet.job.errors import TableError
from sparklet.job.fields import Table
from sparklet.job.session import DELTA, ICEBERG, hadoop_path, has_class, java_class, stored_text

WAP, WAP_ENABLED = ("spark.wap.id", "spark.wap.branch"), "write.wap.enabled"  # Iceberg's write-audit-publish


@dataclass(frozen=True)
class Layout:
    """Where and how a table is stored.

    ``root``: the folder of the table's data files; "" if no files can be staged there. ``schema``: None without a
    table. ``is_described``: whether Delta makes the files of a shard's append; otherwise the commit writes the rows.
    ``names``: the columns of an existing table, in lower case; for Hudi only if an upsert deletes rows. ``draft``: the
    Iceberg table, or the one that its catalog would make. ``unmade``: what a shard declares about a new table in S3
    Tables, where a table that does not exist cannot have a draft.
    """

    root: str
    schema: StructType | None
    partitions: tuple[Partition, ...] = ()
    is_described: bool = True
    names: frozenset[str] | None = None
    draft: Draft | None = None
    unmade: SeenTable | None = None

    @property
    def seen(self) -> str:
        """The value for ``Declaration.seen``; "" if the table is not an Iceberg table."""
        state = self.draft.seen() if self.draft else self.unmade
        return state.text() if state else ""


def layout_of(frame: DataFrame, write: Declaration) -> Layout:
    """Return the layout of the table, or of the table that a commit will make for this frame.

    TableError if the format's jars are missing, if no commit can write to the table, or if ``partition_by`` is wrong.
    """
    spark, table, partition_by = frame.sparkSession, write.table, write.partition_by
    if table.format == "hudi":  # the commit reads Hudi's schema, and writes the rows
        refuse_hudi(table, write, _hudi_properties(spark, table.place))
        # In Parquet an interval would become a number.
        if intervals := [name for name, type_ in frame.dtypes if "interval " in type_]:
            raise TableError(
                f"Hudi cannot have the column {intervals[0]!r} of the frame, an interval: cast it in the script"
            )
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
        raise TableError(f"{table} is partitioned by {by}, not by {', '.join(partition_by)}: leave out partition_by")
    return layout


def _delta(spark: SparkSession, table: Table, frame: DataFrame) -> Layout:
    with own_errors(str(table)):
        delta_log: Any = spark._jvm.org.apache.spark.sql.delta.DeltaLog
        log_and_snapshot = delta_log.forTableWithSnapshot(spark._jsparkSession, table.place)
        log, snapshot = log_and_snapshot._1(), log_and_snapshot._2()
        if snapshot.version() < 0:
            return Layout(table.place, None)
        check_writable(table.place, log, snapshot)
    metadata = json.loads(snapshot.metadata().json())["metaData"]
    schema = StructType.fromJson(json.loads(metadata["schemaString"]))
    return Layout(
        table.place,
        schema=required_columns(schema, frame),
        partitions=tuple(map(Partition, metadata["partitionColumns"])),
        is_described=can_describe(schema, frame),
        names=frozenset(map(str.lower, schema.names)),
    )


def _hudi_properties(spark: SparkSession, folder: str) -> dict[str, str]:
    """Return a Hudi table's own properties; {} without a table."""
    path, file_system = hadoop_path(spark, uri := f"{folder}/.hoodie/hoodie.properties")
    lines = stored_text(spark, uri).splitlines() if file_system.exists(path) else []
    # In a file of properties Java escapes colons, equals signs and the like by a backslash.
    return {key: value.replace("\\", "") for key, _, value in (line.partition("=") for line in lines)}


def _hudi_names(spark: SparkSession, write: Declaration) -> frozenset[str] | None:
    """Return a table's columns in lower case; None without a table. TableError if it cannot mark rows as deleted."""
    if not _hudi_properties(spark, write.table.place):
        return None
    names = frozenset(map(str.lower, spark.read.format("hudi").load(write.table.place).columns))
    if HUDI_DELETED not in names and not write.merge_schema:
        raise TableError(
            f"{write.table} lacks the column {HUDI_DELETED}, by which Hudi deletes rows: pass merge_schema=True, which "
            "adds it"
        )
    return names


def _iceberg(frame: DataFrame, table: Table, partition_by: tuple[str, ...]) -> Layout:
    spark, name = frame.sparkSession, table.place
    iceberg: Any = spark._jvm.org.apache.iceberg
    catalog = catalog_of(spark, name)
    existing = load_table(spark, catalog, name)
    if existing is not None:
        wap = [option for option in WAP if spark.conf.get(option, None)]
        if wap and existing.properties().get(WAP_ENABLED) == "true":
            raise TableError(
                f"{table} has {WAP_ENABLED}, and the session {wap[0]}, but a commit changes the branch main: unset it"
            )
        draft = Draft.of_state(spark, name, existing.operations(), existing.operations().current())
        root, names = (
            "" if is_in_bucket(spark) else data_folder(existing),
            frozenset(map(str.lower, draft.columns.names)),
        )
        return Layout(root, draft.columns, draft.partitions, names=names, draft=draft)
    if missing := [column for column in partition_by if column not in frame.columns]:
        raise TableError(f"the frame has no column {', '.join(missing)}, which partition_by names")
    schema = iceberg_columns(spark, frame._jdf.schema().json())  # as JSON of Java, since Python lacks some types
    if is_in_bucket(spark):  # such a catalog chooses a table's location only when it makes the table
        schema_json = json.loads(iceberg.SchemaParser.toJson(schema))
        new = SeenTable("", 0, 2, schema_json, {"spec-id": 0, "fields": []})
        return Layout("", spark_columns(iceberg, schema), tuple(map(Partition, partition_by)), unmade=new)
    new_table = table_to_be(spark, catalog, name, schema, partition_by)
    # Another script has made the table meanwhile, so the layout of that table counts.
    if new_table is None:
        return _iceberg(frame, table, partition_by)
    return Layout(data_folder(new_table.table), new_table.columns, new_table.partitions, draft=new_table)


def table_to_be(spark: SparkSession, catalog: Any, name: str, schema: Any, by: tuple[str, ...]) -> Draft | None:
    """Return a draft of the table that the catalog would make, whose folder gets the files; None if the table exists.

    TableError if the catalog could not make the table, or does not say where it would be.
    """
    try:
        return Draft.of_new_table(spark, catalog, name, schema, by)
    except Py4JJavaError as error:
        if java_class(error) == "AlreadyExistsException":
            return None
        if java_class(error) == "IllegalStateException":  # the version of Iceberg's format lacks a type
            raise TableError(f"{name} cannot be made of the frame: {error.java_exception.getMessage()}") from error
        raise TableError(
            f"{name} does not exist, and its catalog does not say where it would be: {error.java_exception}; "
            "make the table, or its database, before"
        ) from error
