"""The same query as ``filter_group.py``, by DuckDB or Polars: one process, no JVM. Also makes the data for all.

    .venv-bench/bin/python benchmarks/jobs/filter_group_in_process.py duckdb SCRIPT --event '{"input": …, "output": …}'
    .venv-bench/bin/python benchmarks/jobs/filter_group_in_process.py make FILE --megabytes 128

It runs in the rivals' own environment, so it imports nothing of this project.
"""

import argparse
import json
from pathlib import Path
from typing import Any

COLUMNS = {"id": "BIGINT", "name": "VARCHAR", "amount": "DOUBLE", "day": "DATE", "note": "VARCHAR"}
SALES = """
    SELECT i AS id, 'name ' || (i * 7919 % 1009) AS name, (i * 104729 % 100003) / 100.0 AS amount,
           DATE '2026-01-01' + CAST(i % 365 AS INT) AS day, md5(CAST(i AS VARCHAR)) AS note
    FROM range({rows}) AS numbers(i)"""
SAMPLE_ROWS = 200_000


def by_duckdb(source: str, output: Path) -> None:
    """SQL over the file, with the columns' types given as the others have them."""
    import duckdb

    table = f"read_csv('{source}', header = true, columns = {COLUMNS})" if source.endswith(".csv") else f"'{source}'"
    query = f"SELECT name, count(*) AS sales, sum(amount) AS amount FROM {table} WHERE amount >= 500 GROUP BY name"
    duckdb.execute(f"COPY ({query}) TO '{output / 'part.parquet'}' (FORMAT parquet)")


def by_polars(source: str, output: Path) -> None:
    """A lazy query, streamed."""
    import polars as pl

    types = {"id": pl.Int64, "name": pl.String, "amount": pl.Float64, "day": pl.Date, "note": pl.String}
    sales: Any = pl.scan_csv(source, schema=types) if source.endswith(".csv") else pl.scan_parquet(source)
    groups = sales.filter(pl.col("amount") >= 500).group_by("name").agg(pl.len().alias("sales"), pl.col("amount").sum())
    groups.collect(engine="streaming").write_parquet(output / "part.parquet")


def make(file: Path, megabytes: int) -> dict[str, Any]:
    """Write sales of about that size; how many rows, and what the query must find in them."""
    import duckdb

    how = "(FORMAT csv, HEADER)" if file.suffix == ".csv" else "(FORMAT parquet)"
    duckdb.execute(f"COPY ({SALES.format(rows=SAMPLE_ROWS)}) TO '{file}' {how}")
    rows = max(1, round(megabytes * 1_000_000 / file.stat().st_size * SAMPLE_ROWS))
    duckdb.execute(f"COPY ({SALES.format(rows=rows)}) TO '{file}' {how}")
    [found] = duckdb.execute(
        f"SELECT count(*), count(DISTINCT name), sum(amount) FROM ({SALES.format(rows=rows)}) WHERE amount >= 500"
    ).fetchall()
    return {"rows": rows, "bytes": file.stat().st_size, "sales": found[0], "groups": found[1], "amount": found[2]}


def main() -> None:
    """Do one of them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=["duckdb", "polars", "make"])
    parser.add_argument("file", help="what to make; else the Spark script that this stands in for, and is not read")
    parser.add_argument("--event", type=json.loads)
    parser.add_argument("--megabytes", type=int)
    options = parser.parse_args()
    if options.engine == "make":
        print(json.dumps(make(Path(options.file), options.megabytes)))
        return
    output = Path(options.event["output"])
    output.mkdir(parents=True)
    (by_duckdb if options.engine == "duckdb" else by_polars)(options.event["input"], output)


if __name__ == "__main__":
    main()
