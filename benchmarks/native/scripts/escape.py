"""Quotes escaped by quotes."""

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
spark.read.csv(job.input_list(), header=True, quote='"', escape='"', multiLine=True).write.mode("overwrite").parquet(
    job.output
)
