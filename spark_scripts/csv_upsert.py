"""CSV with a header → a table, merged by key: a row replaces the table's row with the same key, or else is added.

The table can be a Delta, Iceberg or Hudi table. The rows of all shards are merged in one commit at the run's end. ::

    sparklet run spark_scripts/csv_upsert.py --table delta:s3://bucket/people --input in --param keys=id
    python spark_scripts/csv_upsert.py --table hudi:people --input in.csv --param keys=id

Parameters: ``keys``, the key columns, comma-separated (default ``id``); ``order_by``, a column: of all rows with the
same key, the table's row included, the one with the greatest value wins (without it several rows with one key are an
error, since the right one is not known); ``schema``, in Spark's syntax (without it every column is text).
"""

from sparklet.job import Job


def main() -> None:
    """Merge the rows of the inputs into the table by key, and report how many there are."""
    job = Job.from_args()
    changes = job.spark().read.csv(
        job.input_list(),
        schema=job.params.get("schema"),
        header=True,
        enforceSchema=False,  # compare the header with the schema
        mode="FAILFAST",
    )
    keys = [name.strip() for name in job.params.get("keys", "id").split(",")]
    job.report(rows=job.upsert(changes, keys=keys, order_by=job.params.get("order_by")))


if __name__ == "__main__":
    main()
