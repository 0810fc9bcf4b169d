"""Null filled, values replaced, duplicates dropped."""

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
prices = spark.read.parquet(job.params["prices"])
prices.na.fill({"price": 0, "kind": "?"}).replace("x", "z", "kind").dropDuplicates(["kind"]).select("kind").write.mode(
    "overwrite"
).parquet(job.output)
