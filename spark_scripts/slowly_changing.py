"""CSV of changes → a table that keeps the history of each key: a slowly changing dimension of type 2.

Each row of the table holds from ``valid_from`` to ``valid_to`` (null: until now, and ``is_current`` is true). A change
adds a row and closes the one before it, in one commit; a row that changes nothing adds none; one that comes late is put
in its place; the same file again changes nothing. For Delta and Iceberg. ::

    SCHEMA='id INT, city STRING, changed_at TIMESTAMP'
    sparklet run spark_scripts/slowly_changing.py --table delta:s3://bucket/towns --input in --param schema="$SCHEMA"
    python spark_scripts/slowly_changing.py --table delta:towns --input in.csv --param schema="$SCHEMA"

Parameters: ``schema``, in Spark's words; ``keys``, columns, comma-separated (default ``id``); ``changed``, the column
that says when (default ``changed_at``). All changes of a key must be in one shard; if they are not, the commit is
refused and names the key.
"""

from __future__ import annotations

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F  # noqa: N812 - the name everybody knows it by

from sparklet.job import Job


def main() -> None:
    """Do the job."""
    job = Job.from_args()
    spark = job.spark()
    keys = [name.strip() for name in job.params.get("keys", "id").split(",")]
    changes = spark.read.csv(job.input_list(), schema=job.params["schema"], header=True, mode="FAILFAST")
    changes = changes.withColumnRenamed(job.params.get("changed", "changed_at"), "valid_from")
    changes = changes.dropDuplicates([*keys, "valid_from"]).withColumn("_new", F.lit(True))
    known = history(spark, job.table or "")
    if known is not None:
        of_keys = known.join(changes, keys, "left_semi").select(*changes.drop("_new").columns)
        changes = changes.join(of_keys, [*keys, "valid_from"], "left_anti")  # those that are there already
        changes = changes.unionByName(of_keys.withColumn("_new", F.lit(False)))
    job.report(rows=job.upsert(chained(changes, keys), keys=[*keys, "valid_from"]))


def history(spark: SparkSession, table: str) -> DataFrame | None:
    """What the table holds; None if there is none yet."""
    form, _, place = table.partition(":")
    try:
        return spark.table(f"iceberg.{place}") if form == "iceberg" else spark.read.format(form).load(place)
    except AnalysisException:
        return None


def chained(rows: DataFrame, keys: list[str]) -> DataFrame:
    """Each row valid until the next one of its key, without new rows that say what the row before them says."""
    of_key = Window.partitionBy(*keys).orderBy("valid_from")
    said = F.struct(*(name for name in rows.columns if name not in (*keys, "valid_from", "_new")))
    changed = rows.withColumn("_change", ~said.eqNullSafe(F.lag(said).over(of_key)) | ~F.col("_new"))
    kept = changed.where("_change").drop("_change", "_new")
    return kept.withColumn("valid_to", F.lead("valid_from").over(of_key)).withColumn(
        "is_current", F.col("valid_to").isNull()
    )


if __name__ == "__main__":
    main()
