"""Parquet files with repeated rows → a table with one row for each key, the newest.

Duplicates within a shard are dropped by the script, duplicates in different shards by the run's commit. ::

    sparklet run spark_scripts/deduplicate.py --table delta:s3://bucket/people --input in --param order_by=changed_at
    python spark_scripts/deduplicate.py --table delta:people --input 'in/*.parquet' --param order_by=changed_at

Parameters: ``keys``, the key columns, comma-separated (default ``id``); ``order_by``, the column whose greatest value
marks the newest row. Of rows with the same keys and the same ``order_by`` any one is kept.
"""

from pyspark.sql import Window
from pyspark.sql import functions as F  # noqa: N812 - the name everybody knows it by

from sparklet.job import Job


def main() -> None:
    """Keep the newest row of each key among the inputs, and merge these rows into the table."""
    job = Job.from_args()
    keys = [name.strip() for name in job.params.get("keys", "id").split(",")]
    rows = job.spark().read.parquet(*job.input_list())
    newest_first = Window.partitionBy(*keys).orderBy(F.desc(job.params["order_by"]))
    newest = rows.withColumn("_place", F.row_number().over(newest_first)).where("_place = 1").drop("_place")
    job.report(rows=job.upsert(newest, keys=keys, order_by=job.params["order_by"]))


if __name__ == "__main__":
    main()
