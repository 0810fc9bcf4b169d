"""Maintenance: answers how many data files tables have, how large these are, and how many are small.

Only the files of a table's last version count; many small files are a reason to compact the table. ::

    python spark_scripts/file_sizes.py --table hudi:s3://bucket/people
    sparklet run spark_scripts/file_sizes.py --items tables.txt …           # a table a line, FORMAT:PLACE

Parameter ``small_mb`` (default 32): files below this size in megabytes are small.
"""

from pyspark.sql import functions as F  # noqa: N812 - the name everybody knows it by

from sparklet.job import Job


def main() -> None:
    """Answer the number and sizes of each table's files."""
    job = Job.from_args()
    small_bytes = float(job.params.get("small_mb", 32)) * 1024 * 1024
    job.answer({table: measure(job, table, small_bytes) for table in job.items or [job.table]})


def measure(job: Job, table: str, small_bytes: float) -> dict[str, int]:
    """The number and sizes of one table's files."""
    spark = job.spark()
    form, _, place = table.partition(":")
    if form == "iceberg":
        sizes = spark.table(f"iceberg.{place}.files").select(F.col("file_size_in_bytes").alias("length"))
    else:
        files = spark.read.format(form).load(place).inputFiles()
        if not files:
            return {"files": 0}
        sizes = spark.read.format("binaryFile").load(files).select("length")  # the contents are not read
    [figures] = sizes.select(
        F.count("length").alias("files"),
        F.sum("length").alias("bytes"),
        F.expr("min(length)").alias("smallest_bytes"),
        F.expr("percentile_approx(length, 0.5)").alias("median_bytes"),
        F.expr("max(length)").alias("largest_bytes"),
        F.count_if(F.col("length") < small_bytes).alias("small_files"),
    ).collect()
    return {name: value or 0 for name, value in figures.asDict().items()}


if __name__ == "__main__":
    main()
