"""A table of a run and one of a plain Spark job are the same for Spark and for delta-rs in two time zones.

``make pytest`` always tries the same few tables. ``SPARKLET_FOLDERS=500`` tries more, ``SPARKLET_SEED`` other ones.
"""

from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from hypothesis import event, given, seed
from pyspark.sql import DataFrame, SparkSession, functions

from sparklet.connectors.tables.declaration import PARQUET
from sparklet.job import Job
from sparklet.job.session import session_options
from tests.functional.job.conftest import SESSION_HERE
from tests.functional.tables.generated import (
    NAMES,
    SCALARS,
    SEED,
    TRIALS,
    TYPES,
    ZONES,
    Case,
    Column,
    both_write,
    cases,
    merge_clauses,
    quoted,
)
from tests.functional.tables.shards import Shards

pytestmark = [*SESSION_HERE, pytest.mark.stack]


def partitions(column: Column) -> Sequence[str]:
    """Return no transform for binary columns, as some of their values cannot be names of folders."""
    return [quoted(column.name)] if column.type in SCALARS and column.type != "BINARY" else []


def by_spark(spark: SparkSession, table: str, case: Case) -> None:
    """Write the rows of all shards as a user does in one Spark job."""
    frames = [spark.sql(shard.sql) for shard in case.shards if shard.rows]  # a shard without rows adds no column
    if not frames:
        return
    rows = reduce(lambda one, other: one.unionByName(other, allowMissingColumns=True), frames)
    writer = rows.write.format("delta").option("mergeSchema", str(case.merge_schema).lower())
    exists = DeltaTable.is_deltatable(table)
    if case.mode == "upsert":
        greatest = "" if case.order_by is None else f" ORDER BY {quoted(case.order_by)} DESC NULLS LAST"
        rows.createOrReplaceTempView("staged")
        number = f"row_number() OVER (PARTITION BY {quoted(case.key)}{greatest or ' ORDER BY 1'}) AS rank_here"
        rows = spark.sql(f"SELECT *, {number} FROM staged").where("rank_here = 1").drop("rank_here")
        if exists:
            rows.createOrReplaceTempView("changes")
            spark.sql(f"MERGE INTO delta.`{table}` t USING changes s ON {merge_clauses(case)}")
            return
        rows = rows.where(f"NOT ({case.delete})") if case.delete else rows
        writer = rows.write.format("delta")
    if not exists:
        writer = writer.partitionBy(*(text[1:-1].replace("``", "`") for text in case.by))
    if case.mode == "overwrite_partitions":
        writer = writer.mode("overwrite").option("partitionOverwriteMode", "dynamic")
    else:
        writer = writer.mode("append")
    if rows.count():  # an upsert to a new table can have only rows that delete
        writer.save(table)


def by_shards(spark: SparkSession, table: str, case: Case, folder: Path) -> None:
    by = [text[1:-1].replace("``", "`") for text in case.by]

    def script(job: Job, frame: DataFrame) -> int:
        options: dict[str, Any] = {"merge_schema": case.merge_schema, "partition_by": by}
        if case.mode == "upsert":
            return job.upsert(
                frame, f"delta:file://{table}", keys=case.key, order_by=case.order_by, delete=case.delete, **options
            )
        return (job.append if case.mode == "append" else job.overwrite_partitions)(
            frame, f"delta:file://{table}", **options
        )

    run = Shards(folder)
    run.stage(script, *(spark.sql(shard.sql) for shard in case.shards))
    run.commit()


def seen_by_spark(spark: SparkSession, table: str) -> Any:
    frame = spark.read.format("delta").load(table)
    columns = [functions.col(quoted(name)) for name in sorted(frame.columns)]
    rows = sorted(row[0] for row in frame.select(functions.to_json(functions.struct(*columns))).collect())
    details = spark.sql(f"DESCRIBE DETAIL delta.`{table}`").select("partitionColumns", "properties", "tableFeatures")
    return rows, sorted(frame.schema.jsonValue()["fields"], key=str), details.first()


def seen_by_delta_rs(table: str) -> Any:
    """Return the rows as delta-rs reads them, with dates as days and times as microseconds since the epoch.

    Python has no dates beyond the year 9999. If delta-rs cannot read the table, the type of its error is returned: it
    cannot read such a date as a partition value, nor a negative decimal of more than 18 digits.
    """
    plain = {pa.date32(): pa.int32(), pa.timestamp("us"): pa.int64(), pa.timestamp("us", "UTC"): pa.int64()}
    try:
        rows = DeltaTable(table).to_pyarrow_table()
    except ValueError as error:
        return type(error)
    columns = {name: rows[name].combine_chunks() for name in sorted(rows.column_names)}
    lists = [
        (column.cast(plain[t]) if (t := column.type) in plain else column).to_pylist() for column in columns.values()
    ]
    return rows.schema.names and sorted(map(repr, zip(*lists, strict=True)))


@seed(SEED)
@TRIALS
@given(case=cases(TYPES, [name for name in NAMES if "`" not in name], partitions))  # Delta's MERGE refuses it
def test_shards_write_what_one_job_writes(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, case: Case
) -> None:
    folder = tmp_path_factory.mktemp("generated")
    plain, ours = f"{folder}/plain", f"{folder}/ours"
    by = [text[1:-1].replace("``", "`") for text in case.by]
    event(f"{case.mode} {'exists' if case.first else 'is new'}")
    with session_options(spark, PARQUET):  # these differ from Spark's defaults only in how files are written
        for table in (plain, ours):
            if case.first:
                spark.sql(case.first.sql).write.format("delta").partitionBy(*by).save(table)

    def spark_writes() -> None:
        with session_options(spark, PARQUET):
            by_spark(spark, plain, case)

    if not both_write(spark_writes, lambda: by_shards(spark, ours, case, folder)):
        return
    if not DeltaTable.is_deltatable(plain):
        assert not DeltaTable.is_deltatable(ours)
        return
    for zone in ZONES:
        spark.conf.set("spark.sql.session.timeZone", zone)
        try:
            assert seen_by_spark(spark, ours) == seen_by_spark(spark, plain), case
        finally:
            spark.conf.set("spark.sql.session.timeZone", "UTC")
    assert seen_by_delta_rs(ours) == seen_by_delta_rs(plain), case
