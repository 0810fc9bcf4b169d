"""A folder that several runs have written to, as its readers find it: each row once."""

import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from sparklet.model import Run
from tests.waiting import deadline_s

COUNT = """
import sys
from pyspark.sql import SparkSession

spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
frame = spark.read.parquet(sys.argv[1])
print("read", sorted(row.row for row in frame.collect()), len({row.shard for row in frame.select("shard").collect()}))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two nights."""
    nights = [Run(f"nightly-{night}", (), str(tmp_path), (), created_s=1.8e9 + night) for night in range(2)]
    places = [Path(night.shard_output(number)) for night in nights for number in range(2)]
    for row, place in enumerate(places):
        place.mkdir(parents=True)
        parquet.write_table(pa.table({"row": [row]}), place / "part-0.parquet")
        (place / "_SUCCESS").touch()
    return tmp_path


def test_duckdb_reads_all_runs_of_a_folder(folder: Path) -> None:
    for glob in (f"{folder}/*/*.parquet", f"{folder}/**/*.parquet"):
        rows = duckdb.sql(f"SELECT row FROM read_parquet('{glob}', hive_partitioning=true) ORDER BY 1").fetchall()
        assert [row for (row,) in rows] == list(range(4))


@pytest.mark.spark
def test_spark_reads_all_runs_of_a_folder(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COUNT, str(folder)], capture_output=True, text=True, timeout=deadline_s(100)
    )

    assert f"read {list(range(4))} 4" in done.stdout, done.stderr[-2000:]
