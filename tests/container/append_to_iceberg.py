"""Append the rows of CSV files to an Iceberg table by Spark alone, in a catalog of files in the output."""

from pyspark.sql import Observation
from pyspark.sql import functions as F  # noqa: N812 - the usual name of the module

from sparklet.job import Job


def main() -> None:
    job = Job.from_args()
    spark = job.spark()
    rows = spark.read.csv(job.input_list(), header=True)
    table = f"iceberg.{job.params.get('table', 'lake.rows')}"
    written = Observation("written")  # counts the rows while they are written, so the input is read once
    counted = rows.observe(written, F.count(F.lit(1)).alias("rows"))
    if spark.catalog.tableExists(table):
        counted.writeTo(table).append()
    else:
        counted.writeTo(table).using("iceberg").create()
    job.report(rows=written.get["rows"], outputs=[job.output])


if __name__ == "__main__":
    main()
