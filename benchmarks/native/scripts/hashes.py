"""Keys made of hashes."""

from pyspark.sql import functions as F  # noqa: N812

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
orders = spark.read.csv(job.input_list(), header=True)
orders.select(
    "id",
    F.sha2(F.concat_ws("|", "id", "note"), 256).alias("key"),
    F.hash("status").alias("h"),
    F.xxhash64("id").alias("x"),
).write.mode("overwrite").parquet(job.output)
