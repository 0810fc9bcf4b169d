"""Money: rounded, multiplied, divided."""

from pyspark.sql import functions as F  # noqa: N812

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
orders = spark.read.csv(
    job.input_list(),
    header=True,
    nullValue="NA",
    schema="id INT, customer INT, ordered TIMESTAMP, amount DECIMAL(10,3), status STRING, note STRING",
)
orders.select(
    "id",
    F.round("amount", 2).alias("r"),
    (F.col("amount") * 1.25).alias("with_tax"),
    (F.col("amount") / 3).alias("third"),
    (F.col("amount") * F.lit(0.19).cast("decimal(4,2)")).alias("tax"),
).write.mode("overwrite").parquet(job.output)
