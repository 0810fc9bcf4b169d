"""Batches of Kinesis or Kafka records (JSON) → a table, each record once; unreadable ones → a table of dead letters.

Lambda delivers a batch again after any failure, also after a failure that follows the commit. The batch can then be cut
in two, or begin or end at another record. ``job.append`` adds only rows of records that the table does not have yet,
and its commit lists the records that it adds; see docs/guide/streams.md.

The table is named by ``--table`` or by the parameter ``table``; by default it is a Delta table at the output. Further
parameters: ``schema``, the records' schema in Spark's syntax; ``dead_letters``, the table for records that do not fit
it. ::

    python spark_scripts/stream_to_table.py --event @event.json --output /tmp/readings
"""

from sparklet.job import Job

SCHEMA = "sensor STRING, celsius DOUBLE, taken TIMESTAMP"
CONF = {"spark.sql.shuffle.partitions": "2"}  # for 6 MB at most


def main() -> None:
    """Append readable records to the table, and all others to the table of dead letters."""
    job = Job.from_args()
    spark = job.spark(conf=CONF)
    table = job.table or job.params.get("table") or f"delta:{job.output}"
    dead_letters = job.params.get("dead_letters", f"{table}_dead_letters")
    schema = job.params.get("schema", SCHEMA)
    records = job.records(spark, "json", schema, mode="PERMISSIVE", metadata=True, cause=True).cache()
    good_records = records.where("_cause IS NULL").drop("_cause", "_corrupt_record", "_record")
    bad_records = records.where("_cause IS NOT NULL").selectExpr(
        "_cause AS cause", "_corrupt_record AS value", "to_json(_record) AS record"
    )
    rows = job.append(good_records, table)
    dead_letter_count = job.append(bad_records, dead_letters)
    job.report(rows=rows, outputs=[table, dead_letters] if dead_letter_count else [table])


if __name__ == "__main__":
    main()
