"""The lines of CSV in the messages of an event, beside what others have written."""

from sparklet.job import Job

job = Job.from_args()
rows = job.records(job.spark(), "csv", "id INT, name STRING, amount DOUBLE, day DATE")
rows.write.mode("append").parquet(job.args[0])
