"""Sales without those that were returned, each with its total; one Parquet file for each CSV."""

from pyspark.sql import Observation
from pyspark.sql import functions as F

from sparklet.job import Job

job = Job.from_args()
sales = job.read_csv(job.spark())
sold = sales.where("NOT returned").withColumn("total", F.col("pieces") * F.col("price")).drop("returned")
written = Observation()
sold.observe(written, F.count("*").alias("rows")).write.mode("overwrite").parquet(job.output)
job.report(rows=written.get["rows"])
