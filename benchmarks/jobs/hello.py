"""The least that uses Spark: count a thousand numbers."""

from pyspark.sql import SparkSession

spark = SparkSession.builder.appName("hello").getOrCreate()
assert spark.range(1000).count() == 1000
spark.stop()
