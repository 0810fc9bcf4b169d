"""Two tables by names, missing columns null."""

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
prices = spark.read.parquet(job.params["prices"])
later = spark.read.parquet(job.params["later"])
prices.unionByName(later, allowMissingColumns=True).write.mode("overwrite").parquet(job.output)
