"""Arrays sorted, filtered, joined."""

from pyspark.sql import functions as F  # noqa: N812

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
events = spark.read.schema(
    "id INT, kind STRING, at STRING, tags ARRAY<STRING>, geo STRUCT<lat: DOUBLE, lon: DOUBLE>"
).json(job.params["events"])
events.select(
    "id",
    F.array_sort("tags").alias("sorted"),
    F.array_join("tags", "|", "?").alias("text"),
    F.filter("tags", lambda tag: tag > "a").alias("some"),
).write.mode("overwrite").parquet(job.output)
