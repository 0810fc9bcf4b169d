"""A join by name, text against text."""

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
orders = spark.read.csv(job.input_list(), header=True)
customers = spark.read.csv(job.params["customers"], header=True, sep=";")
orders.join(customers, "customer").write.mode("overwrite").parquet(job.output)
