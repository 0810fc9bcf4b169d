"""A table of Python values beside the input."""

import datetime as dt

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
spark.createDataFrame(
    [(1, "a", dt.date(2013, 1, 2), None), (2, None, None, 1.5)], "id INT, name STRING, day DATE, share DOUBLE"
).write.mode("overwrite").parquet(job.output)
