"""Readings of a stream (JSON) → a table with a row for each sensor and hour, kept up to date by every batch.

The rows are the state: a batch's sums are added to those in the table. ``job.records(…, table=…)`` leaves out what the
table counts already, and ``job.upsert`` succeeds only if no other has replaced rows since: so each record counts once,
whatever is delivered again. If another was faster, Lambda delivers the batch again.

Malformed and late readings go to a table of dead letters, with the cause. Late means: more than an hour older than its
arrival, which is the same at every delivery. The table is that of ``--table`` or of the parameter ``table``, else Delta
at the output; parameter ``dead_letters`` names the other. ::

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
    """Do the job."""
    job = Job.from_args()
    spark = job.spark(conf=CONF)
    table = job.table or job.params.get("table") or f"delta:{job.output}"
    new = judged(job, spark, table)
    rows = job.upsert(counted(new, held(spark, table)), table, keys=KEYS)
    dead = (
        judged(job, spark)
        .where("_cause IS NOT NULL")
        .selectExpr(
            "_cause AS cause",
            "coalesce(_corrupt_record, CAST(to_json(struct(sensor, celsius, taken)) AS BINARY)) AS value",
            "to_json(_record) AS record",
        )
    )
    job.append(dead, job.params.get("dead_letters", f"{table}_dead_letters"))
    job.report(rows=rows, outputs=[table])


def judged(job: Job, spark: SparkSession, table: str | None = None) -> DataFrame:
    """The records, all or those new to a table; ``_cause`` says why one does not count."""
    records = job.records(spark, "json", SCHEMA, mode="PERMISSIVE", metadata=True, cause=True, table=table)
    return records.withColumn("_cause", F.expr(CAUSE))


def held(spark: SparkSession, table: str) -> DataFrame | None:
    """What the table holds; None if there is none. It is read after ``streams.records``, so it is not older."""
    format_, _, place = table.partition(":")
    try:
        return spark.table(f"iceberg.{place}") if format_ == "iceberg" else spark.read.format(format_).load(place)
    except (AnalysisException, Py4JJavaError) as error:
        if isinstance(error, Py4JJavaError) and "TableNotFoundException" not in str(error):  # Hudi's own
            raise
        return None


def counted(records: DataFrame, before: DataFrame | None) -> DataFrame:
    """The rows that the records change."""
    good = records.where("_cause IS NULL").selectExpr(
        "sensor", "date_trunc('HOUR', taken) AS hour", "1L AS readings", "celsius", "celsius AS newest", "taken AS at"
    )
    batch = summed(good)
    if before is None:
        return batch
    touched = before.join(batch, KEYS, "left_semi").select(*batch.columns)
    return summed(batch.unionByName(touched))


def summed(rows: DataFrame) -> DataFrame:
    """One row for each key."""
    return rows.groupBy(*KEYS).agg(
        F.sum("readings").alias("readings"),
        F.sum("celsius").alias("celsius"),
        F.max_by("newest", "at").alias("newest"),
        F.max("at").alias("at"),
    )


if __name__ == "__main__":
    main()
