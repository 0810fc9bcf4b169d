"""Parquet in folders by day and hour."""

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
orders.withColumn("day", F.to_date("ordered")).withColumn("hour", F.hour("ordered")).write.partitionBy(
    "day", "hour"
).parquet(job.output)
