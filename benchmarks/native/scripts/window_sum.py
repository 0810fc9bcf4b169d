"""A running total and the order before."""

from pyspark.sql import Window
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
by = Window.partitionBy("customer").orderBy("id")
orders.select("id", F.sum("amount").over(by).alias("total"), F.lag("ordered").over(by).alias("before")).write.mode(
    "overwrite"
).parquet(job.output)
