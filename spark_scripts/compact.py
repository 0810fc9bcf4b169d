"""Next script: many small Parquet files → few large ones, nothing else changed.

Each shard of a run reads its files and writes one file for every ``file_mb`` megabytes (parameter, default 128). As the
next script of a run it compacts what that run wrote::

    sparklet run spark_scripts/csv_to_parquet.py --next spark_scripts/compact.py --next-output s3://b/compact/ …
    python spark_scripts/compact.py --input 'out/*/*.parquet' --output compact
"""

from pyspark.sql import Observation
from pyspark.sql import functions as F  # noqa: N812 - the name everybody knows it by

from sparklet.job import Job, stored_bytes


def main() -> None:
    """Read the input files as one table, and write it in files of ``file_mb``."""
    job = Job.from_args()
    file_bytes = int(float(job.params.get("file_mb", 128)) * 1024 * 1024)
    spark = job.spark(
        conf={
            "spark.sql.files.maxPartitionBytes": str(file_bytes),
            "spark.sql.files.openCostInBytes": "0",  # else Spark counts a small file as 4 MB
            "spark.sql.files.minPartitionNum": "1",  # else Spark writes a file for each core
        }
    )
    written = Observation("written")
    table = spark.read.parquet(*job.input_list()).observe(written, F.count(F.lit(1)).alias("rows"))
    table.write.mode("overwrite").parquet(job.output)
    job.report(rows=written.get["rows"], output_bytes=stored_bytes(spark, job.output), outputs=[job.output])


if __name__ == "__main__":
    main()
