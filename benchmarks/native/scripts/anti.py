"""Customers without a refund."""

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
orders = spark.read.csv(job.input_list(), header=True)
customers = spark.read.csv(job.params["customers"], header=True, sep=";")
customers.join(orders.where("status = 'refund'"), "customer", "left_anti").write.mode("overwrite").parquet(job.output)
