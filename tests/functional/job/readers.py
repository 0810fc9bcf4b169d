"""Readers of tables that do not use Spark; each returns the rows in order."""

from pathlib import Path
from typing import Any

import duckdb
from deltalake import DeltaTable
from pyiceberg.table import StaticTable

Rows = list[tuple[Any, ...]]


def parquet(folder: Path) -> Rows:
    return duckdb.execute(
        "FROM read_parquet(?, hive_partitioning=false) ORDER BY ALL", [f"{folder}/*.parquet"]
    ).fetchall()


def delta(table: Path, columns: str = "*") -> Rows:
    found = DeltaTable(str(table)).to_pyarrow_table()  # noqa: F841 - duckdb finds it by its name
    return duckdb.sql(f"SELECT {columns} FROM found ORDER BY ALL").fetchall()


def iceberg(table: Path, columns: str = "*") -> Rows:
    version = (table / "metadata" / "version-hint.text").read_text().strip()
    metadata = table / "metadata" / f"v{version}.metadata.json"
    found = StaticTable.from_metadata(f"file://{metadata}").scan().to_arrow()  # noqa: F841 - as above
    return duckdb.sql(f"SELECT {columns} FROM found ORDER BY ALL").fetchall()


def hudi(table: Path, columns: str) -> Rows:
    """Read the newest file of each group; files are named ``GROUP_token_COMMIT.parquet``."""
    files = sorted(table.glob("*.parquet"), key=lambda file: file.stem.rsplit("_", 1)[-1])
    newest = {file.name.partition("_")[0]: str(file) for file in files}
    return duckdb.execute(f"SELECT {columns} FROM read_parquet(?) ORDER BY ALL", [list(newest.values())]).fetchall()
