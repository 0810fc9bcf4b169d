"""What a shard of a trial does: append its rows to the one table, or write them; the parameter ``way`` says how."""

import os

from pyspark.sql import DataFrame, SparkSession

from sparklet.job import ExpectationError, Job

HUDI = {
    "hoodie.table.name": "rows",
    "hoodie.table.timeline.timezone": "UTC",
    "hoodie.datasource.write.operation": "bulk_insert",
    "hoodie.datasource.write.recordkey.field": "id",
    "hoodie.datasource.write.precombine.field": "id",
    "hoodie.datasource.write.keygenerator.class": "org.apache.hudi.keygen.NonpartitionedKeyGenerator",
}


def main() -> None:
    """Do the job."""
    job = Job.from_args()
    if job.params["kind"] == "escalation" and "AWS_LAMBDA_FUNCTION_NAME" in os.environ:
        raise MemoryError("a function has too little, as the trial wants it")
    spark = job.spark()
    mode = "FAILFAST" if job.params["kind"] == "isolate" else "PERMISSIVE"
    rows = spark.read.csv(job.input_list(), header=True, schema="id INT, name STRING", mode=mode)
    way, table = job.params["way"], job.params.get("table", "")
    if not table:
        (rows.coalesce(1) if job.params["mixed"] else rows).write.mode("overwrite").parquet(job.output)
    elif job.params["kind"] == "isolate":
        append_good(job, rows, table)
    elif way == "plain":
        for number in range(job.params["commits"]):
            append(spark, rows.where(rows["id"] % job.params["commits"] == number), table)
    elif way == "direct":
        job.append(rows, table, commit="direct")
    else:
        job.append(rows, table)
    job.report(rows=rows.count())


def append_good(job: Job, rows: DataFrame, table: str) -> None:
    """Append, and fail on a malformed row, as the trial wants with or without the name of its file."""
    try:
        job.append(rows, table)
    except Exception:
        if job.params["named"]:
            raise
        raise ExpectationError("a row is malformed") from None


def append(spark: SparkSession, rows: DataFrame, table: str) -> None:
    """As most scripts do it."""
    format_, _, place = table.partition(":")
    if format_ == "delta":
        rows.write.format("delta").mode("append").save(place)
    elif format_ == "hudi":
        rows.write.format("hudi").options(**HUDI).mode("append").save(place)
    elif spark.catalog.tableExists(f"iceberg.{place}"):
        rows.writeTo(f"iceberg.{place}").append()
    else:
        rows.writeTo(f"iceberg.{place}").using("iceberg").create()


if __name__ == "__main__":
    main()
