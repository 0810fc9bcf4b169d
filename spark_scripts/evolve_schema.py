"""CSV files whose columns have changed over time → one table, to which the commits add the new columns.

In a new column, older rows and rows of files without the column have null. ::

    sparklet run spark_scripts/evolve_schema.py --table iceberg:db.people --input in --param schema='id INT, born DATE'
    python spark_scripts/evolve_schema.py --table iceberg:db.people --input 2013.csv --input 2014.csv

Parameter ``schema``: the types of columns by name, in Spark's syntax; all other columns are text. A value of another
type fails the job. The table's types are never changed; to change one, write to a new table.
"""

from functools import reduce

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the name everybody knows it by

from sparklet.job import Job


def main() -> None:
    """Read each file with its own columns, and append the rows of all files to the table, with new columns."""
    job = Job.from_args()
    spark = job.spark(conf={"spark.sql.ansi.enabled": "true"})  # a value that cannot be cast is an error, not null
    frames = [read_file(spark, path, job.params.get("schema", "")) for path in job.input_list()]
    rows = reduce(lambda left, right: left.unionByName(right, allowMissingColumns=True), frames)
    job.report(rows=job.append(rows, merge_schema=True))


def read_file(spark: SparkSession, path: str, schema: str) -> DataFrame:
    """The rows of one file, by its own header. If Spark reads several files at once, it uses only the first header."""
    types = {field.name: field.dataType for field in spark.createDataFrame([], schema).schema} if schema else {}
    texts = spark.read.csv(path, header=True)
    return texts.select(*(F.col(f"`{name}`").cast(types.get(name, "string")).alias(name) for name in texts.columns))


if __name__ == "__main__":
    main()
