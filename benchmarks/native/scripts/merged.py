"""Parquet files of two schemas as one."""

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
spark.read.option("mergeSchema", "true").parquet(job.params["prices"], job.params["later"]).write.mode(
    "overwrite"
).parquet(job.output)
