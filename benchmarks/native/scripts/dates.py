"""Arithmetic of dates."""

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
day = F.to_date("ordered")
orders.select(
    "id",
    F.add_months(day, 1).alias("due"),
    F.last_day(day).alias("last"),
    F.dayofweek(day).alias("weekday"),
    F.trunc(day, "month").alias("month"),
    F.months_between(day, F.lit("2013-01-31")).alias("months"),
).write.mode("overwrite").parquet(job.output)
