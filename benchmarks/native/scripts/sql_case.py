"""Cases and dates in SQL."""

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
spark.sql(
    """SELECT id, CASE WHEN amount < 0 THEN 'out' WHEN amount > 100 THEN 'large' ELSE 'small' END AS size,
    datediff(DATE '2014-01-01', ordered) AS age, year(ordered) * 100 + month(ordered) AS period FROM orders"""
).write.mode("overwrite").parquet(job.output)
