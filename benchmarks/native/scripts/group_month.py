"""Totals by month, of a formatted date."""

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
orders.groupBy(F.date_format("ordered", "yyyy-MM").alias("month")).agg(F.max("amount").alias("most")).write.mode(
    "overwrite"
).parquet(job.output)
