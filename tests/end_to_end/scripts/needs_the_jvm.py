"""A script that uses a SparkContext, which a remote session does not have."""

from sparklet.job import Job

job = Job.from_args()
print(job.spark().sparkContext.parallelize([1]).count())
