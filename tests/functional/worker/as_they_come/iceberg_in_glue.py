"""In the shape of spark-on-aws-lambda's script for Iceberg: a catalog of its own, GlueCatalog by its class."""

import os

from pyspark.sql import SparkSession

input_path, output_path = os.environ["input_path"], os.environ["output_path"]  # noqa: SIM112 - as they have it

spark = (
    SparkSession.builder.appName("Spark-on-AWS-Lambda")
    .master("local[*]")
    .config("spark.driver.memory", "5g")
    .config("spark.hadoop.fs.s3a.access.key", os.environ["AWS_ACCESS_KEY_ID"])
    .config("spark.hadoop.fs.s3a.secret.key", os.environ["AWS_SECRET_ACCESS_KEY"])
    .config("spark.hadoop.fs.s3a.session.token", os.environ["AWS_SESSION_TOKEN"])
    .config("spark.hadoop.fs.s3a.aws.credentials.provider", "org.apache.hadoop.fs.s3a.TemporaryAWSCredentialsProvider")
    .config(
        "spark.hadoop.hive.metastore.client.factory.class",
        "com.amazonaws.glue.catalog.metastore.AWSGlueDataCatalogHiveClientFactory",
    )
    .config("spark.jars.packages", "org.apache.iceberg")
    .config("spark.sql.extensions", "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions")
    .config("spark.sql.catalog.AwsDataCatalog", "org.apache.iceberg.spark.SparkCatalog")
    .config("spark.sql.catalog.AwsDataCatalog.catalog-impl", "org.apache.iceberg.aws.glue.GlueCatalog")
    .config("spark.sql.catalog.AwsDataCatalog.warehouse", output_path)
    .config("spark.sql.defaultCatalog", "AwsDataCatalog")
    .enableHiveSupport()
    .getOrCreate()
)
spark.read.option("header", "true").option("delimiter", ";").csv(input_path).createOrReplaceTempView("source_table")
spark.sql(f"""
    CREATE TABLE IF NOT EXISTS AwsDataCatalog.on_lambda.homes (id string, price string)
    LOCATION '{output_path}' TBLPROPERTIES ('table_type'='ICEBERG','format'='parquet');
""")
spark.sql("INSERT INTO AwsDataCatalog.on_lambda.homes SELECT * FROM source_table;")
