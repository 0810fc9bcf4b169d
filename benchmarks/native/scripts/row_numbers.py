"""RDDs, as old scripts have them."""

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
orders = spark.read.csv(job.input_list(), header=True)
spark.createDataFrame(
    orders.rdd.zipWithIndex().map(lambda each: (each[0].id, each[1])), "id STRING, n BIGINT"
).write.mode("overwrite").parquet(job.output)
