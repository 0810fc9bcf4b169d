"""Times of JSON, with and without a zone."""

from pyspark.sql import functions as F  # noqa: N812

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
events = spark.read.schema(
    "id INT, kind STRING, at STRING, tags ARRAY<STRING>, geo STRUCT<lat: DOUBLE, lon: DOUBLE>"
).json(job.params["events"])
events.select(
    "id", F.to_timestamp("at").alias("at"), F.unix_timestamp(F.col("at").cast("timestamp")).alias("s")
).write.mode("overwrite").parquet(job.output)
