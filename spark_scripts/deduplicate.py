"""Parquet files with rows that come more than once → a table with one row for each key, the newest.

Duplicates within a shard are dropped here, those of different shards by the one commit of the run. ::

    sparklet run spark_scripts/deduplicate.py --table delta:s3://bucket/people --input in --param order_by=changed_at
    python spark_scripts/deduplicate.py --table delta:people --input 'in/*.parquet' --param order_by=changed_at

Parameters: ``keys``, columns, comma-separated (default ``id``); ``order_by``, the column whose greatest value is the
newest. Rows that are the same in both are taken for the same row: one of them is kept.
"""

from pyspark.sql import Window
from pyspark.sql import functions as F  # noqa: N812 - the name everybody knows it by

from sparklet.job import Job


def main() -> None:
    """Do the job."""
    job = Job.from_args()
    keys = [name.strip() for name in job.params.get("keys", "id").split(",")]
    rows = job.spark().read.parquet(*job.input_list())
    newest_first = Window.partitionBy(*keys).orderBy(F.desc(job.params["order_by"]))
    newest = rows.withColumn("_place", F.row_number().over(newest_first)).where("_place = 1").drop("_place")
    job.report(rows=job.upsert(newest, keys=keys, order_by=job.params["order_by"]))


if __name__ == "__main__":
    main()
