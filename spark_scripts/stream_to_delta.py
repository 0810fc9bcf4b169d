"""A batch of Kinesis records (JSON) → the Delta table at the output, each record once. Needs Delta's jars.

Lambda delivers a batch again after any failure, also one that came after the commit, and not always the same batch: it
may be cut in two, or begin at the record that failed. So it is not the commit that has a name here (``txnAppId`` and
``txnVersion`` know whole batches, by numbers that a sequence number is too long for) but each record, by its shard, its
sequence number and its place within an aggregated record: MERGE adds those that the table has not.

Parameter ``schema``: the records', in Spark's words. What does not fit it is kept in ``_corrupt_record``, so that one
bad record does not hold up its shard. One table has one writer at a time: see docs/guide/streams.md. ::

    python spark_scripts/stream_to_delta.py --event @event.json --output table
"""

from sparklet.job import Job

SCHEMA = "sensor STRING, celsius DOUBLE, taken TIMESTAMP"
KEY = ("shard_id", "sequence_number", "sub_sequence_number")
CONF = {"spark.sql.shuffle.partitions": "2", "spark.databricks.delta.snapshotPartitions": "2"}  # for 6 MB at most


def main() -> None:
    """Do the job."""
    job = Job.from_args()
    spark = job.spark(conf=CONF)
    records = job.records(spark, "json", job.params.get("schema", SCHEMA), mode="PERMISSIVE", metadata=True)
    batch = records.select("*", *(f"_record.{name}" for name in (*KEY, "arrival_time"))).drop("_record").cache()
    batch.createOrReplaceTempView("batch")
    columns = ", ".join(f"`{field.name}` {field.dataType.simpleString()}" for field in batch.schema)
    table = "delta.`{}`".format(job.output.replace("`", "``"))
    spark.sql(f"CREATE TABLE IF NOT EXISTS {table} ({columns}) USING delta")
    arrival = batch.selectExpr("string(min(arrival_time)) AS first", "string(max(arrival_time)) AS last").first()
    if arrival and arrival.first:  # the end of an empty window has no records
        same = " AND ".join(f"old.{name} = new.{name}" for name in KEY)
        # A record keeps its arrival time, and files without any of the batch's times need not be read.
        near = f"old.arrival_time BETWEEN TIMESTAMP '{arrival.first}' AND TIMESTAMP '{arrival.last}'"
        spark.sql(f"MERGE INTO {table} old USING batch new ON {same} AND {near} WHEN NOT MATCHED THEN INSERT *")
    job.report(rows=batch.count(), outputs=[job.output])


if __name__ == "__main__":
    main()
