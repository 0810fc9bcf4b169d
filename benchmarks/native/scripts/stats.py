"""Spread and quantiles."""

from pyspark.sql import functions as F  # noqa: N812

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
prices = spark.read.parquet(job.params["prices"])
prices.agg(
    F.stddev("share").alias("s"),
    F.expr("percentile(share, 0.5)").alias("p"),
    F.countDistinct("kind").alias("n"),
    F.max("share").alias("m"),
).write.mode("overwrite").parquet(job.output)
