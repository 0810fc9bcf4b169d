"""A web log taken apart by a regular expression."""

from pyspark.sql import functions as F  # noqa: N812

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
lines = spark.read.text(job.params["log"])
pattern = r'^(\S+) .* \[([^\]]+)\] "(\S+) (\S+)[^"]*" (\d+)'
lines.select(*(F.regexp_extract("value", pattern, n).alias(f"part{n}") for n in range(1, 6))).write.mode(
    "overwrite"
).parquet(job.output)
