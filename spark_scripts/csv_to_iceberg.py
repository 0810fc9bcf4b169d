"""CSV with a header → rows appended to an Iceberg table: all shards of a run in one commit, each row once.

No row is added twice if a worker dies, a shard is tried again, or a message is delivered twice. ::

    sparklet run spark_scripts/csv_to_iceberg.py --table iceberg:db.people --input in --param schema='id INT, born DATE'
    python spark_scripts/csv_to_iceberg.py --table iceberg:db.people --input in.csv --param schema='id INT, born DATE'

Parameters: ``schema``, in Spark's syntax (without it every column is text); ``partition_by``, the columns,
comma-separated, by which a new table is partitioned. ``--table delta:s3://bucket/people`` appends to a Delta table just
as well. For the catalog see docs/guide/tables.md.
"""

from sparklet.job import Job


def main() -> None:
    """Append the rows of the inputs to the table, and report how many there are."""
    job = Job.from_args()
    people = job.read_csv(job.spark())
    partition_by = [name.strip() for name in job.params.get("partition_by", "").split(",") if name.strip()]
    job.report(rows=job.append(people, partition_by=partition_by))


if __name__ == "__main__":
    main()
