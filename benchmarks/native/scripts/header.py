"""CSV with a header, all text, as it comes."""

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
orders = spark.read.csv(job.input_list(), header=True)
orders.write.mode("overwrite").parquet(job.output)
