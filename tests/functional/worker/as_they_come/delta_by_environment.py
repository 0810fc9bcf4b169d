"""A script like the Delta scripts of spark-on-aws-lambda, with settings that have no effect in a running JVM."""

import os

from pyspark.sql import SparkSession
from pyspark.sql.functions import current_timestamp

input_path, output_path = os.environ["input_path"], os.environ["OUTPUT_PATH"]  # noqa: SIM112 - as in the original
key, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]

spark = (
    SparkSession.builder.appName("Spark-on-AWS-Lambda")
    .master("local[*]")
    .config("spark.driver.bindAddress", "127.0.0.1")
    .config("spark.driver.memory", "5g")
    .config("spark.executor.memory", "5g")
    .config("spark.jars.packages", "io.delta:delta-core_2.12-2.2.0.jar")
    .config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
    .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
    .config("spark.serializer", "org.apache.spark.serializer.KryoSerializer")
    .config("spark.sql.hive.convertMetastoreParquet", "false")
    .config(
        "spark.hadoop.hive.metastore.client.factory.class",
        "com.amazonaws.glue.catalog.metastore.AWSGlueDataCatalogHiveClientFactory",
    )
    .config("spark.hadoop.fs.s3a.access.key", key)
    .config("spark.hadoop.fs.s3a.secret.key", secret)
    .config("spark.hadoop.fs.s3a.session.token", os.environ["AWS_SESSION_TOKEN"])
    .config("spark.hadoop.fs.s3a.aws.credentials.provider", "org.apache.hadoop.fs.s3a.TemporaryAWSCredentialsProvider")
    .enableHiveSupport()
    .getOrCreate()
)

df = spark.read.option("header", "true").option("delimiter", ";").csv(input_path)
df.withColumn("last_upd_timestamp", current_timestamp()).write.format("delta").mode("append").save(output_path)
