"""CSV of changes → a table that keeps the history of each key: a slowly changing dimension of type 2.

Each row of the table is valid from ``valid_from`` to ``valid_to``; the current row has ``is_current``, and null as
``valid_to``. A change adds a row and ends the row before it, in one commit. A change with the values of the row before
it adds no row; a change that comes late is inserted at its time; reading the same file again changes nothing.
The table can be a Delta or Iceberg table. ::

    SCHEMA='id INT, city STRING, changed_at TIMESTAMP'
    sparklet run spark_scripts/slowly_changing.py --table delta:s3://bucket/towns --input in --param schema="$SCHEMA"
    python spark_scripts/slowly_changing.py --table delta:towns --input in.csv --param schema="$SCHEMA"

Parameters: ``schema``, in Spark's syntax; ``keys``, the key columns, comma-separated (default ``id``); ``changed``, the
column with a change's time (default ``changed_at``). All changes of a key must be in one shard; if they are not, the
commit fails, and the error names the key.
"""

from __future__ import annotations

from pyspark.errors import AnalysisException
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F  # noqa: N812 - the name everybody knows it by

from sparklet.job import Job


def main() -> None:
    """Put the changes into the history of their keys, and upsert the rows of these keys."""
    job = Job.from_args()
    spark = job.spark()
    keys = [name.strip() for name in job.params.get("keys", "id").split(",")]
    changes = spark.read.csv(job.input_list(), schema=job.params["schema"], header=True, mode="FAILFAST")
    changes = changes.withColumnRenamed(job.params.get("changed", "changed_at"), "valid_from")
    changes = changes.dropDuplicates([*keys, "valid_from"]).withColumn("_new", F.lit(True))
    table_rows = history(spark, job.table or "")
    if table_rows is not None:
        table_rows = table_rows.join(changes, keys, "left_semi").select(*changes.drop("_new").columns)
        # Leave out changes that the table has already.
        changes = changes.join(table_rows, [*keys, "valid_from"], "left_anti")
        changes = changes.unionByName(table_rows.withColumn("_new", F.lit(False)))
    job.report(rows=job.upsert(with_validity(changes, keys), keys=[*keys, "valid_from"]))


def history(spark: SparkSession, table: str) -> DataFrame | None:
    """The table's rows; None if there is no table yet."""
    form, _, place = table.partition(":")
    try:
        return spark.table(f"iceberg.{place}") if form == "iceberg" else spark.read.format(form).load(place)
    except AnalysisException:
        return None


def with_validity(rows: DataFrame, keys: list[str]) -> DataFrame:
    """Make each row valid until the next row of its key; drop new rows with the values of the row before them."""
    key_window = Window.partitionBy(*keys).orderBy("valid_from")
    values = F.struct(*(name for name in rows.columns if name not in (*keys, "valid_from", "_new")))
    is_change = ~values.eqNullSafe(F.lag(values).over(key_window))
    marked = rows.withColumn("_keep", is_change | ~F.col("_new"))
    kept_rows = marked.where("_keep").drop("_keep", "_new")
    return kept_rows.withColumn("valid_to", F.lead("valid_from").over(key_window)).withColumn(
        "is_current", F.col("valid_to").isNull()
    )


if __name__ == "__main__":
    main()
