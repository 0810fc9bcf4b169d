"""JSON lines whose types Spark guesses."""

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
spark.read.json(job.params["events"]).write.mode("overwrite").parquet(job.output)
