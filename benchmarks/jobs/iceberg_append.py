"""Append the rows of a CSV file, under ids of this batch, to a table of Iceberg. Plain PySpark."""

import argparse
import json

from pyspark.sql import SparkSession

parser = argparse.ArgumentParser()
parser.add_argument("--event", type=json.loads)
event = parser.parse_args().event

spark = (
    SparkSession.builder.appName("iceberg_append")
    .config("spark.sql.extensions", "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions")
    .config("spark.sql.catalog.lake", "org.apache.iceberg.spark.SparkCatalog")
    .config("spark.sql.catalog.lake.type", "hadoop")
    .config("spark.sql.catalog.lake.warehouse", event["output"])
    .getOrCreate()
)
rows = spark.read.csv(event["input"], header=True, schema="id INT, name STRING, amount DOUBLE, day DATE")
rows = rows.selectExpr(f"id + {event['first_id']} AS id", "name", "amount", "day")
if spark.catalog.tableExists("lake.db.sales"):
    rows.writeTo("lake.db.sales").append()
else:
    rows.writeTo("lake.db.sales").create()
spark.stop()
