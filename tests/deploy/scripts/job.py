"""All that scripts do with S3 and Glue, in one script.

It reads files and a folder, writes, overwrites, uploads in parts, aborts an upload, creates a table and appends to it,
and enters another table with a partition into Glue.

It also answers, which the worker keeps for a run's results, and in one run it declares a write to a table.
"""

import json
import os
import sys
from pathlib import Path

import pyarrow
from py4j.java_gateway import JavaObject
from pyiceberg.catalog import load_catalog
from pyspark.sql import SparkSession

from sparklet.connectors.data_catalog.glue import GlueCatalog
from sparklet.job import Job

PART_BYTES = 5 * 1024 * 1024  # the smallest part that S3 accepts


def main() -> None:
    """Act according to the name of the first input."""
    event = json.loads(sys.argv[sys.argv.index("--event") + 1])
    if "inputs" not in event:  # a batch of a stream
        return
    if "table" in event["params"]:
        append(event["params"]["table"])
        return
    if "looked_up" in event["params"]:
        job, table = Job.from_args(), event["params"]["looked_up"]
        job.table(table).count()
        assert job.spark().catalog.databaseExists(table.partition(".")[0])
        return
    name = event["inputs"][0].rpartition("/")[2]
    spark = SparkSession.builder.getOrCreate()
    if name.startswith("released"):
        sys.exit(1)
    if name.startswith("failed") and event["sparklet"]["generation"] == 0:
        spark.sql("SELECT no_such_column")
    rows = spark.read.csv(event["inputs"])
    writes = [{"table": "delta:s3://lake/rows"}] if event["sparklet"].get("run") == "work" else []
    Path(os.environ["SPARKLET_OUTCOME_FILE"]).write_text(json.dumps({"answer": rows.count(), "writes": writes}))
    if "work" in name:
        spark.read.csv(event["params"]["folder"]).count()
        # Hadoop's own committer makes folders: for that it looks for the nearest existing parent, up to the bucket.
        spark.sparkContext.parallelize(["a"]).saveAsTextFile(event["output_path"] + "/text")
        rows.write.mode("overwrite").parquet(event["output_path"] + "/rows")
        spark.read.parquet(event["output_path"] + "/rows").count()
        upload(spark, event["output_path"] + "/large")


def append(name: str) -> None:
    """Create a table in the worker's catalog and append to it; enter another one into Glue as a Glue sink does."""
    rows = pyarrow.table({"id": [1]})
    # Arrow does not read the variable.
    catalog = load_catalog("iceberg", **{"s3.endpoint": os.environ["AWS_ENDPOINT_URL"]})
    catalog.create_table(name, rows.schema).append(rows)
    days, glue = f"{name}_days", GlueCatalog.of_script()
    glue.keep_table(days, "s3://lake/days/", "parquet", [("id", "bigint"), ("day", "string")], ["day"], change=True)
    glue.keep_partitions(days, ["day"], [["1"]])


def upload(spark: SparkSession, uri: str) -> None:
    """Write an object in two parts; begin another one and abort it."""
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
