"""A file of sales → those above 500 → groups → Parquet. Plain PySpark, as for spark-on-aws-lambda."""

import argparse
import json

from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the name everybody knows it by

parser = argparse.ArgumentParser()
parser.add_argument("--event", type=json.loads)
event = parser.parse_args().event

schema = "id LONG, name STRING, amount DOUBLE, day DATE, note STRING"
spark = SparkSession.builder.appName("filter_group").getOrCreate()
source = event["input"]
sales = spark.read.csv(source, header=True, schema=schema) if source.endswith(".csv") else spark.read.parquet(source)
found = sales.where("amount >= 500").groupBy("name")
groups = found.agg(F.count(F.lit(1)).alias("sales"), F.sum("amount").alias("amount"))
groups.write.mode("overwrite").parquet(event["output"])
spark.stop()
