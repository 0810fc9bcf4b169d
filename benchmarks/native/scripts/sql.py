"""The same in SQL, on a view."""

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
orders = spark.read.csv(
    job.input_list(),
    header=True,
    nullValue="NA",
    schema="id INT, customer INT, ordered TIMESTAMP, amount DECIMAL(10,3), status STRING, note STRING",
)
orders.createOrReplaceTempView("orders")
spark.sql("SELECT status, count(*) AS n, sum(amount) AS total FROM orders WHERE amount > 0 GROUP BY status").write.mode(
    "overwrite"
).parquet(job.output)
