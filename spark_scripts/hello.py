"""The smallest script: plain PySpark without anything of Sparklet.

python spark_scripts/hello.py
"""

from pyspark.sql import SparkSession

spark = SparkSession.builder.appName("hello").getOrCreate()
print(f"hello from Spark {spark.version}: {spark.range(1000).count()} rows counted")
spark.stop()
