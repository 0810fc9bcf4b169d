"""Check script: reads the Parquet files that a run wrote, and fails the run if they are not as expected.

If all shards have succeeded and reported their rows, the output must have as many rows. The run's own parameters are
further expectations:

- ``least_rows``: the least number of rows;
- ``required``: columns, comma-separated, that must have a value in every row;
- ``unique``: columns, comma-separated, whose combination of values must be different in every row. ::

    sparklet run spark_scripts/csv_to_parquet.py --check spark_scripts/check_output.py --param required=id,name …
    python spark_scripts/check_output.py --input figures.json --param least_rows=1000
"""

from collections.abc import Mapping
from typing import Any

from pyspark.sql import Column, Row
from pyspark.sql import functions as F  # noqa: N812 - the name everybody knows it by

from sparklet.job import Job, expect


def main() -> None:
    """Compare the files that the run wrote with what is expected of them, and report how many rows they have."""
    job = Job.from_args()
    spark = job.spark()
    figures = job.figures(spark)
    required, unique = columns(job, "required"), columns(job, "unique")
    counts = spark.read.parquet(figures["output"]).agg(*aggregates(required, unique)).collect()[0]
    judge(figures, counts, int(job.params.get("least_rows", 0)), required, unique)
    job.report(rows=counts["rows"])


def columns(job: Job, name: str) -> list[str]:
    """The column names in a comma-separated parameter."""
    return [column.strip() for column in str(job.params.get(name, "")).split(",") if column.strip()]


def aggregates(required: list[str], unique: list[str]) -> list[Column]:
    """The counts that ``judge`` needs; Spark computes all of them in one pass."""
    missing_counts = [F.count_if(F.isnull(column)).alias(f"missing {column}") for column in required]
    distinct_count = [F.count_distinct(F.struct(*unique)).alias("different")] if unique else []
    return [F.count(F.lit(1)).alias("rows"), *missing_counts, *distinct_count]


def judge(figures: Mapping[str, Any], counts: Row, least_rows: int, required: list[str], unique: list[str]) -> None:
    """Fail at the first count that is not as expected."""
    rows, output = counts["rows"], figures["output"]
    if figures["rows"] is not None and not figures["counts"]["failed"] and not figures["silent_shards"]:
        expect(rows == figures["rows"], f"{output} holds {rows} rows, its shards have reported {figures['rows']}")
    expect(rows >= least_rows, f"{output} holds {rows} rows, at least {least_rows} were expected")
    for column in required:
        missing_count = counts[f"missing {column}"]
        expect(missing_count == 0, f"{column} has no value in {missing_count} of {rows} rows of {output}")
    if unique:
        repeated_count = rows - counts["different"]
        expect(
            repeated_count == 0,
            f"{repeated_count} of {rows} rows of {output} have the same {', '.join(unique)} as another one",
        )


if __name__ == "__main__":
    main()
