"""Copy CSV to Parquet; the file that ``large`` names needs a block of memory larger than a small function's heap."""

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
rows = spark.read.csv(list(job.inputs), header=True)
if job.inputs[0].endswith(job.params["large"]):
    spark.sparkContext._gateway.new_array(spark._jvm.long, 200_000_000)
rows.write.mode("overwrite").parquet(job.output)
job.report(rows=rows.count(), outputs=[job.output])
