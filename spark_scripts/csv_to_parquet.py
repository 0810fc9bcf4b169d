"""CSV with a header → Parquet.

Types are not guessed, since each shard would guess from its own files, and shards could differ. The parameter
``schema`` has the columns and types in Spark's syntax; without it every column is text. ::

    python spark_scripts/csv_to_parquet.py --input in.csv --output out --param schema='id INT, name STRING'

With a schema, a file with another header, or a line that does not fit, fails the job. The parameter ``separator`` is
the text between columns (default: a comma).
"""

from pyspark.sql import Observation
from pyspark.sql import functions as F  # noqa: N812 - the name everybody knows it by

from sparklet.job import Job


def main() -> None:
    """Write the rows of the inputs as Parquet, and report how many there are."""
    job = Job.from_args()
    table = job.read_csv(job.spark(), sep=job.params.get("separator", ","))
    written = Observation("written")
    table.observe(written, F.count(F.lit(1)).alias("rows")).write.mode("overwrite").parquet(job.output)
    job.report(rows=written.get["rows"], outputs=[job.output])


if __name__ == "__main__":
    main()
