"""JSON with types found out, joined with a small table → each visitor's last visit → Delta. Plain PySpark.

Priming runs each of these steps, but not this query, not these columns and no nested JSON.
"""

import argparse
import json

from pyspark.sql import SparkSession, Window
from pyspark.sql import functions as F  # noqa: N812 - the name everybody knows it by

parser = argparse.ArgumentParser()
parser.add_argument("--event", type=json.loads)
event = parser.parse_args().event
folder = event["input"].rpartition("/")[0]

spark = (
    SparkSession.builder.appName("json_to_delta")
    .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
    .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
    .getOrCreate()
)
visits = spark.read.json(f"{folder}/visits.json")
shops = spark.read.csv(f"{folder}/shops.csv", header=True)
newest_first = Window.partitionBy("visitor").orderBy(F.desc("arrived"))
ranked = visits.join(shops, "shop").withColumn("recency", F.row_number().over(newest_first))
ranked.where("recency = 1").drop("recency").write.format("delta").mode("overwrite").save(event["output"])
spark.stop()
