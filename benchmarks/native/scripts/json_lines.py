"""JSON lines with a schema."""

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
events = spark.read.schema(
    "id INT, kind STRING, at STRING, tags ARRAY<STRING>, geo STRUCT<lat: DOUBLE, lon: DOUBLE>"
).json(job.params["events"])
events.write.mode("overwrite").parquet(job.output)
