"""Orders with their customers."""

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
orders = spark.read.csv(
    job.input_list(),
    header=True,
    nullValue="NA",
    schema="id INT, customer INT, ordered TIMESTAMP, amount DECIMAL(10,3), status STRING, note STRING",
)
customers = spark.read.csv(job.params["customers"], header=True, sep=";")
orders.join(customers, orders.customer == customers.customer.cast("int"), "left").drop(customers.customer).write.mode(
    "overwrite"
).parquet(job.output)
