"""A function of Python for each row."""

from pyspark.sql import functions as F  # noqa: N812

from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
orders = spark.read.csv(job.input_list(), header=True)


@F.udf("string")  # type: ignore[untyped-decorator]
def shout(text: str | None) -> str | None:
    """In capitals."""
    return text and text.upper() + "!"


orders.select("id", shout("status").alias("status")).write.mode("overwrite").parquet(job.output)
