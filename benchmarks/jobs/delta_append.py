"""Append the rows of a CSV file, under ids of this batch, to a table of Delta. Plain PySpark."""

import argparse
import json

from pyspark.sql import SparkSession

parser = argparse.ArgumentParser()
parser.add_argument("--event", type=json.loads)
event = parser.parse_args().event

spark = (
    SparkSession.builder.appName("delta_append")
    .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
    .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
    .getOrCreate()
)
rows = spark.read.csv(event["input"], header=True, schema="id INT, name STRING, amount DOUBLE, day DATE")
rows = rows.selectExpr(f"id + {event['first_id']} AS id", "name", "amount", "day")
rows.write.format("delta").mode("append").save(event["output"])
spark.stop()
