"""Append the rows of CSV files to an Iceberg table. Needs Iceberg's jar.

``Job.spark`` makes the catalog ``iceberg``, which lies in the parameter ``warehouse`` or else in
the output; the parameter ``table`` names the table in it (default ``lake.rows``). ::

    python spark_scripts/iceberg_append.py --input in.csv --output warehouse

In a run name a ``warehouse``: what a shard writes to its output is moved when it is done,
and Iceberg's metadata would still name the files by where they were. One table that several
shards commit to comes later, so it is for runs of one shard. Until then an attempt that
dies after its commit leaves its rows behind, and the next one appends them again.
"""

from pyspark.sql import Observation
from pyspark.sql import functions as F  # noqa: N812 - the name everybody knows it by

from sparklet.job import Job


def main() -> None:
    """Do the job."""
    job = Job.from_args()
    spark = job.spark()
    rows = spark.read.csv(job.input_list(), header=True)
    table = f"iceberg.{job.params.get('table', 'lake.rows')}"
    written = Observation("written")  # counts while it is written: the input is read once
    counted = rows.observe(written, F.count(F.lit(1)).alias("rows"))
    if spark.catalog.tableExists(table):
        counted.writeTo(table).append()
    else:
        counted.writeTo(table).using("iceberg").create()
    job.report(rows=written.get["rows"], outputs=[job.output])


if __name__ == "__main__":
    main()
