"""As users of spark-on-aws-lambda write them: what to read and where to write stands in the environment."""

import os

from pyspark.sql import SparkSession

input_path = os.environ["input_path"]  # noqa: SIM112 - as they have it
output_path = os.environ["output_path"]  # noqa: SIM112

spark = SparkSession.builder.appName("csv to parquet").getOrCreate()
df = spark.read.option("header", True).csv(input_path)
df.write.mode("overwrite").format("parquet").save(output_path)
