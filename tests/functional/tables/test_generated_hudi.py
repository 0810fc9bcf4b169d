"""A Hudi table of a run and one of a plain Spark job are the same for Spark and for DuckDB in two time zones.

``make pytest`` always tries the same few tables. ``SPARKLET_FOLDERS=500`` tries more, ``SPARKLET_SEED`` other ones.
"""

import json
from collections.abc import Iterator, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import event, given, seed
from py4j.protocol import Py4JJavaError
from pyspark.sql import DataFrame, SparkSession, functions

from sparklet.connectors.tables.columns import without_hudi_columns
from sparklet.connectors.tables.declaration import HUDI_DELETED, PARQUET
from sparklet.job import Job
from sparklet.job.session import session_options
from tests.functional.job.conftest import SESSION_HERE, session_here
from tests.functional.job.warm_jvm import WarmJvm
from tests.functional.tables.generated import (
    SCALARS,
    SEED,
    TRIALS,
    TYPES,
    ZONES,
    Case,
    Column,
    both_write,
    cases,
    quoted,
)
from tests.functional.tables.shards import Shards

pytestmark = [*SESSION_HERE, pytest.mark.hudi]
NAMES = ("a", "select", "_under", "Upper", "b2")  # names that Avro allows
PARTITIONS = {"BOOLEAN", "INT", "BIGINT", "STRING", "DATE"}
OPERATIONS = {"append": "bulk_insert", "upsert": "upsert", "overwrite_partitions": "insert_overwrite"}


@pytest.fixture(scope="module")
def spark(jvm_here: WarmJvm) -> Iterator[SparkSession]:
    conf = {"spark.master": "local[2]", "spark.sql.shuffle.partitions": "2"}
    conf["spark.sql.parquet.datetimeRebaseModeInRead"] = "CORRECTED"  # Hudi's files do not record it
    conf["spark.hadoop.parquet.avro.write-old-list-structure"] = "false"  # the old one has no nulls
    with session_here("hudi", conf, {}, jvm_here) as session:
        yield session


def partitions(column: Column) -> Sequence[str]:
    return [quoted(column.name)] if column.type in PARTITIONS else []


def options(case: Case) -> dict[str, str]:
    """Return the options that a user sets for one Spark job."""
    by = [text[1:-1] for text in case.by]
    chosen = {
        "hoodie.table.name": "plain",
        "hoodie.datasource.write.partitionpath.field": ",".join(by),
        "hoodie.datasource.write.hive_style_partitioning": "true",
        "hoodie.metadata.enable": "false",
        "hoodie.table.timeline.timezone": "UTC",
    }
    if {"TINYINT", "SMALLINT"}.intersection(column.type for column in case.columns):
        chosen["hoodie.datasource.write.row.writer.enable"] = "false"  # the row writer lacks these types
    if case.mode == "upsert":
        chosen["hoodie.datasource.write.recordkey.field"] = case.key
        chosen["hoodie.record.merge.mode"] = "COMMIT_TIME_ORDERING"
        if case.key not in by:
            chosen["hoodie.index.type"] = "GLOBAL_SIMPLE"
            chosen["hoodie.simple.index.update.partition.path"] = "true"
    return chosen


def by_spark(spark: SparkSession, table: str, case: Case) -> None:
    """Write the rows in one Spark job; an upsert writes the last row of each key if the table's row is not newer."""
    frames = [spark.sql(shard.nullable_sql) for shard in case.shards if shard.rows]
    if not frames:
        return
    rows = reduce(lambda one, other: one.unionByName(other, allowMissingColumns=True), frames)
    existing = spark.read.format("hudi").load(table) if case.first and case.first.rows else None
    if case.mode == "upsert":
        key, order = quoted(case.key), quoted(case.order_by or case.key)
        rows.createOrReplaceTempView("staged")
        number = f"row_number() OVER (PARTITION BY {key} ORDER BY {order} DESC NULLS LAST) AS rank_here"
        rows = spark.sql(f"SELECT *, {number} FROM staged").where("rank_here = 1").drop("rank_here")
        if case.delete:
            rows = rows.withColumn(HUDI_DELETED, functions.expr(f"nullif({case.delete}, false)"))  # a new column: null
        if existing is not None and case.order_by:
            rows.createOrReplaceTempView("changes")
            existing.createOrReplaceTempView("existing")
            rows = spark.sql(
                f"SELECT s.* FROM changes s LEFT ANTI JOIN existing t ON t.{key} = s.{key} "
                f"AND NOT (t.{order} IS NULL OR coalesce(s.{order} >= t.{order}, false))"
            )
    chosen = {**options(case), "hoodie.datasource.write.operation": OPERATIONS[case.mode]}
    rows.write.format("hudi").options(**chosen).mode("append").save(table)


def by_shards(spark: SparkSession, table: str, case: Case, folder: Path) -> None:
    def script(job: Job, frame: DataFrame) -> int:
        arguments: dict[str, Any] = {"merge_schema": case.merge_schema or case.delete is not None}
        arguments["partition_by"] = [text[1:-1] for text in case.by]
        if case.mode == "upsert":
            arguments |= {"keys": case.key, "order_by": case.order_by, "delete": case.delete}
        write: Any = getattr(job, case.mode)
        return int(write(frame, f"hudi:file://{table}", **arguments))

    run = Shards(folder)
    run.stage(script, *(spark.sql(shard.nullable_sql) for shard in case.shards))
    run.commit()


def rows_by_spark(spark: SparkSession, table: str) -> Any:
    """Return the rows as JSON with sorted keys, since Hudi's writers keep no order in maps, and the columns' types."""
    frame = without_hudi_columns(spark.read.format("hudi").load(table))
    rows = (json.loads(row[0]) for row in frame.select(functions.to_json(functions.struct("*"))).collect())
    return sorted(json.dumps(row, sort_keys=True) for row in rows), sorted(frame.dtypes)


def rows_by_duckdb(spark: SparkSession, table: str, zone: str) -> Any:
    """Return the columns' types and the rows of the newest files, as texts."""
    files = spark.read.format("hudi").load(table).inputFiles()
    if not files:
        return []
    with duckdb.connect() as connection:
        connection.execute(f"SET TimeZone = '{zone}'")
        place = ", ".join(f"'{uri.removeprefix('file://')}'" for uri in files)
        rows = connection.sql(f"FROM read_parquet([{place}], union_by_name = true, hive_partitioning = false)")
        types = {name: str(type_) for name, type_ in zip(rows.columns, rows.types, strict=True)}
        columns = {f'"{name}"': type_ for name, type_ in sorted(types.items()) if not name.startswith("_hoodie_")}
        sorted_maps = {name: f"list_sort(map_entries({name}))" for name, t in columns.items() if t.startswith("MAP")}
        texts = (f"{sorted_maps.get(name, name)}::VARCHAR" for name in columns)
        return list(columns.items()), sorted(map(repr, rows.project(", ".join(texts)).fetchall()))


@seed(SEED)
@TRIALS
@given(case=cases({**TYPES, **{name: SCALARS[name] for name in PARTITIONS}}, NAMES, partitions))
def test_shards_write_what_one_job_writes(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, case: Case
) -> None:
    folder = tmp_path_factory.mktemp("generated")
    plain, ours = f"{folder}/plain", f"{folder}/ours"
    event(f"{case.mode} {'exists' if case.first else 'is new'}")

    def spark_writes() -> None:
        with session_options(spark, PARQUET):
            for table in (plain, ours):
                if case.first and case.first.rows:
                    first = spark.sql(case.first.nullable_sql).write.format("hudi").options(**options(case))
                    first.mode("append").save(table)
            by_spark(spark, plain, case)

    if not both_write(spark_writes, lambda: by_shards(spark, ours, case, folder)):
        return
    if not Path(plain).exists():
        assert not Path(ours, ".hoodie").exists()
        return
    for zone in ZONES:
        with session_options(spark, {"spark.sql.session.timeZone": zone}):
            try:
                expected = rows_by_spark(spark, plain)
            except Py4JJavaError as error:  # such as for a date and a name with "/": Hudi reads both as texts
                event(f"unreadable: {str(error.java_exception)[:60]}")
                with pytest.raises(Py4JJavaError):
                    rows_by_spark(spark, ours)
                return
            assert rows_by_spark(spark, ours) == expected, case
        assert rows_by_duckdb(spark, ours, zone) == rows_by_duckdb(spark, plain, zone), case
