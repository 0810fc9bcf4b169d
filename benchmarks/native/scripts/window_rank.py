"""The newest order of each customer."""

from pyspark.sql import Window
from pyspark.sql import functions as F  # noqa: N812

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
orders = spark.read.csv(
    job.input_list(),
    header=True,
    nullValue="NA",
    schema="id INT, customer INT, ordered TIMESTAMP, amount DECIMAL(10,3), status STRING, note STRING",
)
newest = Window.partitionBy("customer").orderBy(F.desc("ordered"), "id")
orders.withColumn("n", F.row_number().over(newest)).where("n = 1").drop("n").write.mode("overwrite").parquet(job.output)
