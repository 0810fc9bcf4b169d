"""What the class-data archive is trained on: files, joins, windows, Python functions, S3A, table formats.

Only classes that this loads start fast later. Formats that are not in the image are passed over, Arrow likewise.
"""

import contextlib
import importlib.util
import sys
import tempfile
from pathlib import Path

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as f

PLACES = {
    "delta": "io.delta.sql.DeltaSparkSessionExtension",
    "iceberg": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
    "hudi": "org.apache.spark.sql.hudi.HoodieSparkSessionExtension",
}
GATEWAY = (
    "org.apache.spark.api.python.PythonGatewayServer",
    "org.apache.spark.api.python.PythonGatewayServer$",
    "java.nio.file.TempFileHelper",
    "java.nio.file.attribute.PosixFilePermissions",
)


def session(formats: list[str], folder: Path) -> SparkSession:
    """A session with the extensions of these formats."""
    builder = SparkSession.builder.config("spark.sql.extensions", ",".join(PLACES[name] for name in formats))
    builder = builder.config("spark.serializer", "org.apache.spark.serializer.KryoSerializer")
    builder = builder.config("spark.sql.warehouse.dir", str(folder / "warehouse"))
    if "delta" in formats:
        builder = builder.config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
    if "iceberg" in formats:
        builder = builder.config("spark.sql.catalog.lake", "org.apache.iceberg.spark.SparkCatalog")
        builder = builder.config("spark.sql.catalog.lake.type", "hadoop")
        builder = builder.config("spark.sql.catalog.lake.warehouse", str(folder / "lake"))
    return builder.getOrCreate()


def files(spark: SparkSession, folder: Path) -> DataFrame:
    """CSV with a schema found out, to Parquet, JSON and ORC and back, by group, window and partition."""
    lines = ["id,name,amount,day", *(f"{n},name {n % 9},{n / 3:.2f},2026-01-{n % 28 + 1:02d}" for n in range(500))]
    (folder / "in.csv").write_text("\n".join(lines))
    frame = spark.read.csv(f"file://{folder}/in.csv", header=True, inferSchema=True)
    frame = frame.withColumn("day", f.to_date("day")).withColumn("label", f.upper(f.col("name")))
    frame.write.mode("overwrite").partitionBy("name").parquet(f"file://{folder}/parquet")
    frame.write.mode("overwrite").json(f"file://{folder}/json")
    frame.write.mode("overwrite").orc(f"file://{folder}/orc")
    frame.write.mode("overwrite").option("header", True).csv(f"file://{folder}/csv", compression="gzip")
    back = spark.read.parquet(f"file://{folder}/parquet").cache()
    spark.read.json(f"file://{folder}/json").union(spark.read.orc(f"file://{folder}/orc")).count()
    window = Window.partitionBy("label").orderBy(f.desc("amount"))
    back.withColumn("place", f.row_number().over(window)).filter("place <= 3").collect()
    return back


def queries(spark: SparkSession, frame: DataFrame) -> None:
    """Joins by broadcast and by sorting, SQL, aggregates, nested values, Python functions, RDDs, errors."""
    frame.createOrReplaceTempView("sales")
    names = spark.createDataFrame([(f"name {n}", n) for n in range(9)], "name string, number int")
    frame.join(f.broadcast(names), "name").groupBy("number").agg(f.sum("amount"), f.countDistinct("id")).collect()
    frame.hint("merge").join(names.hint("merge"), "name", "left").orderBy("id").limit(5).collect()
    spark.sql(
        "select label, avg(amount) a, max(day), collect_list(id) from sales group by rollup(label) having a > 1"
    ).collect()
    spark.sql(
        "select explode(sequence(1, 3)) n, struct(1 a, map('k', 2) m) s, date_format(current_date(), 'yyyy')"
    ).show()
    frame.select(f.udf(lambda text: text[::-1], "string")("name")).distinct().collect()
    frame.rdd.map(lambda row: (row["name"], 1)).reduceByKey(lambda a, b: a + b).collect()
    frame.select(f.from_json(f.lit('{"a": 1}'), "a int"), f.regexp_extract("name", r"(\d)", 1)).first()
    with contextlib.suppress(PySparkException):
        spark.sql("select missing from sales").collect()


def arrow(spark: SparkSession) -> None:
    """Python functions over pandas' frames, and frames to and from pandas, where pandas and PyArrow are."""
    if not all(importlib.util.find_spec(name) for name in ("pandas", "pyarrow")):
        return
    numbers = spark.range(100).withColumn("part", f.col("id") % 3)
    numbers.select(f.pandas_udf(lambda column: column * 2, "long")("id").alias("twice")).agg(f.sum("twice")).collect()
    numbers.groupBy("part").applyInPandas(lambda frame: frame, "id long, part long").count()
    numbers.mapInPandas(lambda frames: frames, "id long, part long").count()
    spark.conf.set("spark.sql.execution.arrow.pyspark.enabled", "true")
    spark.createDataFrame(numbers.toPandas()).count()


def gateway(spark: SparkSession) -> None:
    """What the worker's JVM loads in place of a script's own; its own classes are archived in any case."""
    for name in GATEWAY:
        spark._jvm.java.lang.Class.forName(name)


def tables(spark: SparkSession, formats: list[str], folder: Path) -> None:
    """Write, append, change and read a table of each format."""
    frame = spark.range(20).selectExpr(
        "id", "id % 3 as part", "cast(id as string) as text", "current_timestamp() as at"
    )
    if "delta" in formats:
        place = f"file://{folder}/delta"
        frame.write.format("delta").partitionBy("part").mode("overwrite").save(place)
        frame.write.format("delta").mode("append").save(place)
        frame.limit(5).createOrReplaceTempView("news")
        spark.sql(
            f"merge into delta.`{place}` t using news s on t.id = s.id when matched then update set text = 'new' "
            "when not matched then insert *"
        )
        spark.read.format("delta").load(place).filter("part = 1").count()
    if "iceberg" in formats:
        frame.writeTo("lake.db.table").partitionedBy("part").createOrReplace()
        frame.writeTo("lake.db.table").append()
        frame.writeTo("lake.db.table").overwritePartitions()
        spark.table("lake.db.table").filter("part = 1").count()
        spark.sql("select * from lake.db.table.snapshots").collect()
    if "hudi" in formats:
        options = {
            "hoodie.table.name": "t",
            "hoodie.datasource.write.recordkey.field": "id",
            "hoodie.datasource.write.precombine.field": "at",
            "hoodie.datasource.write.partitionpath.field": "part",
        }
        for mode in ("overwrite", "append"):
            frame.write.format("hudi").options(**options).mode(mode).save(f"file://{folder}/hudi")
        spark.read.format("hudi").load(f"file://{folder}/hudi").filter("part = 1").count()


def remote(spark: SparkSession) -> None:
    """S3A up to its first request: nobody answers there, and its classes are loaded."""
    conf = spark.sparkContext._jsc.hadoopConfiguration()
    for key, value in (("endpoint", "http://127.0.0.1:9"), ("attempts.maximum", "1"), ("retry.limit", "0")):
        conf.set(f"fs.s3a.{key}", value)
    conf.set("fs.s3a.aws.credentials.provider", "org.apache.hadoop.fs.s3a.AnonymousAWSCredentialsProvider")
    with contextlib.suppress(PySparkException, Exception):
        spark.read.text("s3a://nobody/nothing").count()


def main(formats: list[str]) -> None:
    """Do it all once, with the formats that the image holds."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        spark = session(formats, folder)
        queries(spark, files(spark, folder))
        arrow(spark)
        tables(spark, formats, folder)
        gateway(spark)
        remote(spark)
        spark.stop()


if __name__ == "__main__":
    main([name for name in sys.argv[1:] if name in PLACES])
