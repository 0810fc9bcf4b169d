"""Dates in a format of their own."""

from pyspark.sql import functions as F  # noqa: N812

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
customers = spark.read.csv(job.params["customers"], header=True, sep=";")
customers.select("name", F.to_date("since", "dd.MM.yyyy").alias("since")).write.mode("overwrite").parquet(job.output)
