"""The script that priming runs: like a user's script, on small data that it makes; its argument names the part."""

import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions

from sparklet.job import Job
from sparklet.job.session import DELTA, HUDI, ICEBERG, S3A, has_class

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

HERE = Path.cwd().as_uri()
NEEDED = {"delta": DELTA, "iceberg": ICEBERG, "hudi": HUDI, "s3": S3A}
CSV = b"number,word\n1,a\n2,b\n"
NO_OBJECTS = b"<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>"


def rows(spark: "SparkSession") -> "DataFrame":
    """Some rows with the usual types."""
    return spark.range(0, 2000, 1, 2).selectExpr(
        "id AS number",
        "concat('word ', id % 7) AS word",
        "id / 3 AS third",
        "timestamp_seconds(id * 1000) AS at",
        "date_add(date'2026-01-01', CAST(id % 28 AS int)) AS date",
    )


def files(spark: "SparkSession") -> None:
    """Read and write CSV, JSON and Parquet, with groups, a join, a window, SQL and a Python UDF in between."""
    for name in ("csv", "json", "parquet"):
        rows(spark).write.option("header", "true").format(name).save(f"{HERE}/{name}")
    frame = spark.read.csv(f"{HERE}/csv", header=True, inferSchema=True)
    totals = frame.groupBy("word").agg(functions.sum("third").alias("total"), functions.count("*").alias("count"))
    totals.write.mode("overwrite").parquet(f"{HERE}/totals")
    frame.join(spark.read.parquet(f"{HERE}/totals"), "word").write.partitionBy("date").parquet(f"{HERE}/joined")
    shout = functions.udf(lambda text: text.upper())
    spark.read.json(f"{HERE}/json").withColumn("loud", shout("word")).write.json(f"{HERE}/loud")
    spark.read.parquet(f"{HERE}/parquet").createOrReplaceTempView("rows")
    ranked = spark.sql("SELECT *, row_number() OVER (PARTITION BY word ORDER BY third DESC) AS place FROM rows")
    ranked.where("place < 3").orderBy("word").collect()
    spark.createDataFrame([(1, "a")], "number long, word string").count()


def delta(spark: "SparkSession") -> None:
    """Append to a Delta table twice, and read it."""
    for _ in range(2):
        rows(spark).write.format("delta").mode("append").save(f"{HERE}/table")
    spark.read.format("delta").load(f"{HERE}/table").count()


def iceberg(spark: "SparkSession") -> None:
    """Create an Iceberg table, append to it twice, and read it."""
    rows(spark).limit(0).writeTo("priming.lake.rows").using("iceberg").create()
    for _ in range(2):
        rows(spark).writeTo("priming.lake.rows").append()
    spark.table("priming.lake.rows").count()


def hudi(spark: "SparkSession") -> None:
    """Upsert into a Hudi table twice, and read it."""
    fields = {"recordkey": "number", "precombine": "at"}
    options = {f"hoodie.datasource.write.{name}.field": value for name, value in fields.items()}
    for _ in range(2):
        writer = rows(spark).write.format("hudi").options(**options, **{"hoodie.table.name": "priming"})
        writer.mode("append").save(f"{HERE}/table")
    spark.read.format("hudi").load(f"{HERE}/table").count()


class Bucket(BaseHTTPRequestHandler):
    """The part of S3's API that is needed to write and read a CSV; the only object always has the same content."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        """Accept an object, or a list of objects to be deleted; nothing is stored."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(200, b"<DeleteResult/>" if self.command == "POST" else b"")

    def do_GET(self) -> None:
        """Send an empty list of objects, the CSV or a part of it, or 404."""
        if "?" in self.path:
            self._answer(200, NO_OBJECTS)
        elif not self.path.endswith(".csv"):
            self._answer(404, b"")
        elif byte_range := self.headers.get("Range", "").removeprefix("bytes="):
            first, last = map(int, byte_range.split("-"))
            part = CSV[first : last + 1]
            self._answer(206, part, f"bytes {first}-{first + len(part) - 1}/{len(CSV)}")
        else:
            self._answer(200, CSV)

    do_POST, do_HEAD = do_PUT, do_GET  # noqa: N815 - the base class looks for these names

    def _answer(self, status: int, content: bytes, part: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Last-Modified", self.date_time_string())
        self.send_header("ETag", '"priming-1"')  # with a hyphen, since S3A would take another one for an MD5
        if part:
            self.send_header("Content-Range", part)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Log nothing."""


def s3(spark: "SparkSession") -> None:
    """Write a CSV by S3A, read it by Spark, and load Java's classes for TLS."""
    spark._jvm.javax.net.ssl.SSLContext.getDefault().getSocketFactory()
    path = spark._jvm.org.apache.hadoop.fs.Path("s3a://priming/rows.csv")
    stream = path.getFileSystem(spark._jsc.hadoopConfiguration()).create(path)
    stream.write(CSV)
    stream.close()
    spark.read.csv(path.toString(), header=True, inferSchema=True).collect()


def conf_of(part: str) -> dict[str, str]:
    """The settings of a part's session; a kept context can change all of them later."""
    if part == "iceberg":
        catalog = "spark.sql.catalog.priming"
        return {
            catalog: "org.apache.iceberg.spark.SparkCatalog",
            f"{catalog}.type": "hadoop",
            f"{catalog}.warehouse": HERE,
        }
    if part != "s3":
        return {}
    # S3A's requests go to this process, with invented keys, so that a snapshot has no credentials and no connections.
    server = ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = {
        "endpoint": f"http://127.0.0.1:{server.server_port}",
        "path.style.access": "true",
        "connection.ssl.enabled": "false",
        "access.key": "nobody",
        "secret.key": "nobody",
        "aws.credentials.provider": "org.apache.hadoop.fs.s3a.SimpleAWSCredentialsProvider",
        "attempts.maximum": "1",
        "retry.limit": "1",
    }
    return {f"spark.hadoop.fs.s3a.{name}": value for name, value in options.items()}


def main(part: str) -> None:
    """Do a part, if its classes are on the class path."""
    spark = Job().spark(conf=conf_of(part))
    if part not in NEEDED or has_class(spark._jvm, NEEDED[part]):
        globals()[part](spark)
    spark._jvm.java.lang.System.gc()  # since the heap becomes a part of the snapshot
    spark.stop()


if __name__ == "__main__":
    main(sys.argv[1])
