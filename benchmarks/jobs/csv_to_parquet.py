"""CSV, its types found out or given → groups → Parquet. Plain PySpark, as for spark-on-aws-lambda."""

import argparse
import json

from pyspark.sql import SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the name everybody knows it by

parser = argparse.ArgumentParser()
parser.add_argument("--event", type=json.loads)
event = parser.parse_args().event

spark = SparkSession.builder.appName("csv_to_parquet").getOrCreate()
sales = spark.read.csv(event["input"], header=True, **event.get("reader", {"inferSchema": True}))
groups = sales.groupBy("name").agg(F.count(F.lit(1)).alias("sales"), F.sum("amount").alias("amount"))
groups.write.mode("overwrite").parquet(event["output"])
spark.stop()
