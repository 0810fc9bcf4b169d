"""CSV with a header → a table, merged by key: a row whose key is there replaces it, others are added.

The table may be of Delta, Iceberg or Hudi. All shards of a run are merged at its end, in one commit. ::

    sparklet run spark_scripts/csv_upsert.py --table delta:s3://bucket/people --input in --param keys=id
    python spark_scripts/csv_upsert.py --table hudi:people --input in.csv --param keys=id

Parameters: ``keys``, columns, comma-separated (default ``id``); ``order_by``, a column: of several rows with one key
the one with its greatest value wins, also over the table's (without it they are an error, for nobody could say which
is right); ``schema``, in Spark's words (without it every column is text).
"""

from sparklet.job import Job


def main() -> None:
    """Do the job."""
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
