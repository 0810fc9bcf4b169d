"""A list of each group, and an answer."""

from pyspark.sql import functions as F  # noqa: N812

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
orders = spark.read.csv(job.input_list(), header=True)
orders.groupBy("status").agg(F.sort_array(F.collect_list("id")).alias("ids")).write.mode("overwrite").parquet(
    job.output
)
job.answer({"rows": orders.count()})
