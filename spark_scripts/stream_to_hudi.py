"""A batch of Kinesis records (JSON) → the Hudi table at the output, each record once. Needs Hudi's jar.

Lambda delivers a batch again after any failure, also one that came after the commit, and not always the same batch: it
may be cut in two, or begin at the record that failed. Hudi knows rows by their key: here a record's shard, its sequence
number and its place within an aggregated record. An upsert of what is there already replaces it by itself.

Parameter ``schema``: the records', in Spark's words. What does not fit it is kept in ``_corrupt_record``, so that one
bad record does not hold up its shard. One table has one writer at a time: see docs/guide/streams.md. ::

    python spark_scripts/stream_to_hudi.py --event @event.json --output table
"""

from typing import Any

from pyspark.sql import SparkSession

from sparklet.job import Job

SCHEMA = "sensor STRING, celsius DOUBLE, taken TIMESTAMP"
KEY = ("shard_id", "sequence_number", "sub_sequence_number")
CONF = {"spark.sql.shuffle.partitions": "2"}  # for 6 MB at most
OPTIONS = {
    "hoodie.table.name": "readings",
    "hoodie.table.timeline.timezone": "UTC",  # commits are in order wherever their writers are
    "hoodie.datasource.write.operation": "upsert",
    "hoodie.datasource.write.recordkey.field": ",".join(KEY),
    "hoodie.datasource.write.precombine.field": "arrival_time",  # equal for equal keys: a record keeps it
    "hoodie.datasource.write.keygenerator.class": "org.apache.hudi.keygen.NonpartitionedKeyGenerator",
}


def main() -> None:
    """Do the job."""
    job = Job.from_args()
    spark = job.spark(conf=CONF)
    records = job.records(spark, "json", job.params.get("schema", SCHEMA), mode="PERMISSIVE", metadata=True)
    batch = records.select("*", *(f"_record.{name}" for name in (*KEY, "arrival_time"))).drop("_record").cache()
    rows = batch.count()
    if rows:  # the end of an empty window has no records
        load_early(spark)
        batch.write.format("hudi").options(**OPTIONS).mode("append").save(job.output)
    job.report(rows=rows, outputs=[job.output])


def load_early(spark: SparkSession) -> None:
    """Load the class of the metadata table's records: Hudi 1.2.0 may load it too late, and fails then."""
    jvm: Any = spark._jvm
    loader = jvm.java.lang.Thread.currentThread().getContextClassLoader()
    jvm.java.lang.Class.forName("org.apache.hudi.metadata.HoodieMetadataPayload", True, loader)


if __name__ == "__main__":
    main()
