"""Append the rows of CSV files to the Delta table at the output. Needs Delta's jars.

A run gives every shard an output of its own, so each shard has a table of its own here:
one table that several shards commit to comes later. Another attempt at a shard adds
nothing: Delta knows the shard's commit by its name. ::

    python spark_scripts/delta_append.py --input in.csv --output table
"""

from sparklet.job import Job


def main() -> None:
    """Do the job."""
    job = Job.from_args()
    spark = job.spark()
    rows = spark.read.csv(job.input_list(), header=True)
    append = rows.write.format("delta").mode("append")
    if job.run_id is not None:
        append = append.option("txnAppId", f"{job.run_id}/{job.shard}/append").option("txnVersion", 0)
    append.save(job.output)
    job.report(rows=rows.count(), outputs=[job.output])


if __name__ == "__main__":
    main()
