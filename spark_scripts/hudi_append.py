"""Put the rows of CSV files into the Hudi table at the output. Needs Hudi's jar.

The parameter ``key`` names the column that tells rows apart (default ``id``). A row whose key is
there already replaces it, so another attempt at a shard adds nothing. ::

    python spark_scripts/hudi_append.py --input in.csv --output table --param key=id

A run gives every shard an output of its own, so each shard has a table of its own here:
one table that several shards commit to comes later.
"""

from typing import Any

from pyspark.errors import AnalysisException
from pyspark.sql import SparkSession

from sparklet.job import Job


def main() -> None:
    """Do the job."""
    job = Job.from_args()
    spark = job.spark()
    rows = spark.read.csv(job.input_list(), header=True)
    key = job.params.get("key", "id")
    options = {
        "hoodie.table.name": "rows",
        "hoodie.table.timeline.timezone": "UTC",  # commits are in order wherever their writers are
        "hoodie.datasource.write.operation": "upsert",
        "hoodie.datasource.write.recordkey.field": key,
        "hoodie.datasource.write.precombine.field": key,
        "hoodie.datasource.write.keygenerator.class": "org.apache.hudi.keygen.NonpartitionedKeyGenerator",
        # Hudi sleeps so long whenever it takes the time, 200 ms unless told: for writers at once on unequal clocks.
        "hoodie.time.generator.max_expected_clock_skew_ms": "20",
        "hoodie.metadata.enable": str(has_metadata_table(spark, job.output)).lower(),
    }
    load_early(spark)
    rows.write.format("hudi").options(**options).mode("append").save(job.output)
    job.report(rows=rows.count(), outputs=[job.output])


def has_metadata_table(spark: SparkSession, table: str) -> bool:
    """Whether a table has Hudi's table of its files, which must then be written with every commit.

    A new one does without: half of a small commit is spent on it, and a shard's few files are soon listed. A writer
    that says nothing of it (Hudi's default) adds it.
    """
    try:
        properties = spark.read.text(f"{table}/.hoodie/hoodie.properties").collect()
    except AnalysisException:  # no such path: a new table
        return False
    said = [line.value.partition("=") for line in properties]  # partitions that are there, or being made
    return any(name.startswith("hoodie.table.metadata.partitions") and value for name, _, value in said)


def load_early(spark: SparkSession) -> None:
    """Load the class of the metadata table's records, which Hudi 1.2.0 may load too late.

    Every tenth commit compacts that table first. Where nothing else of Hudi's has run before in the JVM, the commit
    then fails: ``ArrayIndexOutOfBoundsException`` in ``HoodieMetadataPayload``. The compaction stands, so another
    attempt succeeds. See docs/guide/tables.md.
    """
    jvm: Any = spark._jvm
    loader = jvm.java.lang.Thread.currentThread().getContextClassLoader()  # it knows the jars of spark.jars, too
    jvm.java.lang.Class.forName("org.apache.hudi.metadata.HoodieMetadataPayload", True, loader)


if __name__ == "__main__":
    main()
