"""A reader that ignores white space."""

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
spark.read.options(header=True, ignoreLeadingWhiteSpace=True, ignoreTrailingWhiteSpace=True).csv(
    job.input_list()
).write.mode("overwrite").parquet(job.output)
