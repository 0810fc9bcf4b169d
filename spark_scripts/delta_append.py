"""Append the rows of CSV files to the Delta table at the output. Needs Delta's jars.

A run gives every shard an output of its own, so each shard has a table of its own here:
one table that several shards commit to comes later. Another attempt at a shard adds
nothing: Delta knows the shard's commit by its name. ::

    python spark_scripts/delta_append.py --input in.csv --output table
"""

from pyspark.sql import Observation
from pyspark.sql import functions as F  # noqa: N812 - the name everybody knows it by

from sparklet.job import Job

LAST_COMMIT = "spark.databricks.delta.lastCommitVersionInSession"  # Delta sets it


def main() -> None:
    """Do the job."""
    job = Job.from_args()
    spark = job.spark()
    rows = spark.read.csv(job.input_list(), header=True)
    written = Observation("written")  # counts while it is written: the input is read once
    counted = rows.observe(written, F.count(F.lit(1)).alias("rows"))
    append = counted.write.format("delta").mode("append")
    if job.run_id is not None:
        append = append.option("txnAppId", f"{job.run_id}/{job.shard}/append").option("txnVersion", 0)
    spark.conf.unset(LAST_COMMIT)
    append.save(job.output)
    is_new = spark.conf.get(LAST_COMMIT, None) is not None  # else an earlier attempt has committed: nothing was written
    job.report(rows=written.get["rows"] if is_new else rows.count(), outputs=[job.output])


if __name__ == "__main__":
    main()
