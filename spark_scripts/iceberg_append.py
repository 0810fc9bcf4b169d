"""Append the rows of CSV files to an Iceberg table. Needs Iceberg's jar.

``Job.spark`` makes the catalog ``iceberg``, which lies in the parameter ``warehouse`` or else in
the output; the parameter ``table`` names the table in it (default ``lake.rows``). ::

    python spark_scripts/iceberg_append.py --input in.csv --output warehouse

A run gives every shard an output of its own, so each shard has a table of its own here:
one table that several shards commit to comes later. Until then an attempt that dies
after its commit leaves its rows behind, and the next one appends them again.
"""

from sparklet.job import Job


def main() -> None:
    """Do the job."""
    job = Job.from_args()
    spark = job.spark()
    rows = spark.read.csv(job.input_list(), header=True)
    table = f"iceberg.{job.params.get('table', 'lake.rows')}"
    if spark.catalog.tableExists(table):
        rows.writeTo(table).append()
    else:
        rows.writeTo(table).using("iceberg").create()
    job.report(rows=rows.count(), outputs=[job.output])


if __name__ == "__main__":
    main()
