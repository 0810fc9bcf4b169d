"""Append the rows of a CSV file, under ids of this batch, to a table of Hudi. Plain PySpark."""

import argparse
import json

from pyspark.sql import SparkSession

parser = argparse.ArgumentParser()
parser.add_argument("--event", type=json.loads)
event = parser.parse_args().event

spark = (
    SparkSession.builder.appName("hudi_append")
    .config("spark.serializer", "org.apache.spark.serializer.KryoSerializer")
    .config("spark.sql.extensions", "org.apache.spark.sql.hudi.HoodieSparkSessionExtension")
    .getOrCreate()
)
rows = spark.read.csv(event["input"], header=True, schema="id INT, name STRING, amount DOUBLE, day DATE")
rows = rows.selectExpr(f"id + {event['first_id']} AS id", "name", "amount", "day")
options = {
    "hoodie.table.name": "sales",
    "hoodie.datasource.write.recordkey.field": "id",
    "hoodie.datasource.write.precombine.field": "id",
}
# Hudi 1.2.0: in a new JVM every tenth commit fails unless this is loaded first, see docs/guide/tables.md.
spark._jvm.java.lang.Class.forName("org.apache.hudi.metadata.HoodieMetadataPayload")
rows.write.format("hudi").options(**options).mode("append").save(event["output"])
spark.stop()
