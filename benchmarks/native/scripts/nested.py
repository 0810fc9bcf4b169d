"""Fields of a struct, and a struct made."""

from pyspark.sql import functions as F  # noqa: N812

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
events = spark.read.schema(
    "id INT, kind STRING, at STRING, tags ARRAY<STRING>, geo STRUCT<lat: DOUBLE, lon: DOUBLE>"
).json(job.params["events"])
events.select("id", "geo.lat", F.struct("kind", "id").alias("made"), F.size("tags").alias("n")).write.mode(
    "overwrite"
).parquet(job.output)
