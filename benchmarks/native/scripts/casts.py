"""Text columns cast one by one."""

from pyspark.sql import functions as F  # noqa: N812

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
orders = spark.read.csv(job.input_list(), header=True)
orders.select(
    F.col("id").cast("int"),
    F.col("amount").cast("double").alias("amount"),
    F.col("amount").cast("decimal(8,1)").alias("rounded"),
    F.to_date("ordered").alias("day"),
    F.col("ordered").cast("timestamp").alias("at"),
    (F.col("status") == "paid").alias("paid"),
).write.mode("overwrite").parquet(job.output)
