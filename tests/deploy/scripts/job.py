"""What scripts do to S3, in one: read files and a folder, write, overwrite, upload in parts, give an upload up.

They also answer, which the worker keeps for a run's results.
"""

import json
import os
import sys
from pathlib import Path

from py4j.java_gateway import JavaObject
from pyspark.sql import SparkSession

PART_BYTES = 5 * 1024 * 1024  # the least that S3 takes


def main() -> None:
    """Do what the name of the first input says."""
    event = json.loads(sys.argv[sys.argv.index("--event") + 1])
    if "inputs" not in event:  # a batch of a stream
        return
    name = event["inputs"][0].rpartition("/")[2]
    spark = SparkSession.builder.getOrCreate()
    if name.startswith("released"):
        sys.exit(1)
    if name.startswith("failed") and event["sparklet"]["generation"] == 0:
        spark.sql("SELECT no_such_column")
    rows = spark.read.csv(event["inputs"])
    Path(os.environ["SPARKLET_OUTCOME_FILE"]).write_text(json.dumps({"answer": rows.count()}))
    if "work" in name:
        spark.read.csv(event["params"]["folder"]).count()
        rows.write.mode("overwrite").parquet(event["output_path"])
        spark.read.parquet(event["output_path"]).count()
        upload(spark, event["output_path"] + "/large")


def upload(spark: SparkSession, uri: str) -> None:
    """Write an object in two parts; begin another one and give it up."""
    jvm = spark._jvm
    assert jvm is not None
    conf = jvm.org.apache.hadoop.conf.Configuration(spark._jsc.hadoopConfiguration())
    conf.set("fs.s3a.multipart.size", str(PART_BYTES))
    path = jvm.org.apache.hadoop.fs.Path(uri)
    files: JavaObject = jvm.org.apache.hadoop.fs.FileSystem.newInstance(path.toUri(), conf)
    for end in ("close", "abort"):
        stream = files.create(path, True)
        stream.write(bytearray(PART_BYTES + 1))
        getattr(stream, end)()
    files.close()


main()
