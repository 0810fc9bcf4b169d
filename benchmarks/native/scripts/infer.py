"""CSV whose types Spark guesses."""

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
spark.read.csv(job.input_list(), header=True, inferSchema=True).write.mode("overwrite").parquet(job.output)
