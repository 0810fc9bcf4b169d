"""A script like the Deequ script of spark-on-aws-lambda, but with the JVM's classes in place of pydeequ."""

import os
import sys

from pyspark.sql import SparkSession

if len(sys.argv) != 3:
    sys.exit("Usage: spark-dq [input-folder] [output-folder]")

spark = (
    SparkSession.builder.appName("Deequ-on-AWS-Lambda")
    .master("local[*]")
    .config("spark.jars.packages", "deequ-2.0.3-spark-3.3.jar")
    .config("spark.driver.memory", "5g")
    .config("spark.serializer", "org.apache.spark.serializer.KryoSerializer")
    .getOrCreate()
)
dataset = spark.read.option("header", "true").option("delimiter", ";").csv(os.environ["INPUT_PATH"])
jvm = spark._jvm
nothing, checks = jvm.scala.Option.empty(), jvm.com.amazon.deequ.checks
check = checks.Check(checks.CheckLevel.Error(), "homes", jvm.PythonUtils.toSeq([])).isComplete("id", nothing, nothing)
print(jvm.com.amazon.deequ.VerificationSuite().onData(dataset._jdf).addCheck(check).run().status().toString())
