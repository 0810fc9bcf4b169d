"""Readings of a stream (JSON) → a table with a row for each sensor and hour, which every batch updates.

A batch's sums are added to the sums in the table's rows. ``job.records(…, table=…)`` leaves out records that the table
counts already, and ``job.upsert`` succeeds only if no other writer has replaced rows since then. So each record counts
once, whatever is delivered again. If another writer was faster, the upsert fails, and Lambda delivers the batch again.

Malformed and late readings go to a table of dead letters, with the cause. A reading is late if it is more than an hour
older than its arrival, which is the same at every delivery. The table is named by ``--table`` or by the parameter
``table``; by default it is a Delta table at the output. The parameter ``dead_letters`` names the other table. ::

    python spark_scripts/stream_windows.py --event @event.json --output /tmp/hours
"""

from py4j.protocol import Py4JJavaError
from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the name everybody knows it by

from sparklet.job import Job

SCHEMA = "sensor STRING, celsius DOUBLE, taken TIMESTAMP"
CONF = {"spark.sql.shuffle.partitions": "2"}  # for 6 MB at most
CAUSE = """CASE WHEN _cause IS NOT NULL THEN _cause WHEN sensor IS NULL OR taken IS NULL THEN 'no sensor or time'
    WHEN taken < _record.arrival_time - INTERVAL 1 HOUR THEN 'late' END"""
KEYS = ["sensor", "hour"]


def main() -> None:
    """Add the new readings to the table's sums, and append bad and late readings to the dead letters."""
    job = Job.from_args()
    spark = job.spark(conf=CONF)
    table = job.table or job.params.get("table") or f"delta:{job.output}"
    new_records = records_with_cause(job, spark, table)
    rows = job.upsert(updated_rows(new_records, rows_of_table(spark, table)), table, keys=KEYS)
    bad_records = (
        records_with_cause(job, spark)
        .where("_cause IS NOT NULL")
        .selectExpr(
            "_cause AS cause",
            "coalesce(_corrupt_record, CAST(to_json(struct(sensor, celsius, taken)) AS BINARY)) AS value",
            "to_json(_record) AS record",
        )
    )
    job.append(bad_records, job.params.get("dead_letters", f"{table}_dead_letters"))
    job.report(rows=rows, outputs=[table])


def records_with_cause(job: Job, spark: SparkSession, table: str | None = None) -> DataFrame:
    """All records, or those that a table does not count yet; ``_cause`` has the reason if a record does not count."""
    records = job.records(spark, "json", SCHEMA, mode="PERMISSIVE", metadata=True, cause=True, table=table)
    return records.withColumn("_cause", F.expr(CAUSE))


def rows_of_table(spark: SparkSession, table: str) -> DataFrame | None:
    """The table's rows; None if there is no table. Read after ``job.records``, so that they are not older than that."""
    format_, _, place = table.partition(":")
    try:
        return spark.table(f"iceberg.{place}") if format_ == "iceberg" else spark.read.format(format_).load(place)
    except (AnalysisException, Py4JJavaError) as error:
        if isinstance(error, Py4JJavaError) and "TableNotFoundException" not in str(error):  # which Hudi raises
            raise
        return None


def updated_rows(records: DataFrame, table_rows: DataFrame | None) -> DataFrame:
    """The rows that the records add to the table, or change in it."""
    good_records = records.where("_cause IS NULL").selectExpr(
        "sensor", "date_trunc('HOUR', taken) AS hour", "1L AS readings", "celsius", "celsius AS newest", "taken AS at"
    )
    batch = sum_by_key(good_records)
    if table_rows is None:
        return batch
    changed_rows = table_rows.join(batch, KEYS, "left_semi").select(*batch.columns)
    return sum_by_key(batch.unionByName(changed_rows))


def sum_by_key(rows: DataFrame) -> DataFrame:
    """Add rows up to one row for each key."""
    return rows.groupBy(*KEYS).agg(
        F.sum("readings").alias("readings"),
        F.sum("celsius").alias("celsius"),
        F.max_by("newest", "at").alias("newest"),
        F.max("at").alias("at"),
    )


if __name__ == "__main__":
    main()
