"""Spaces trimmed, empty text made null."""

from pyspark.sql import functions as F  # noqa: N812

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
orders = spark.read.csv(job.input_list(), header=True)
orders.select("id", F.when(F.trim("note") == "", None).otherwise(F.trim("note")).alias("note")).write.mode(
    "overwrite"
).parquet(job.output)
