"""At the deadline of a script that writes to a table by itself, its commit is finished or does not begin."""

from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from sparklet.errors import DeadlineExceededError
from tests.functional.worker.conftest import Bench
from tests.waiting import deadline_s

pytestmark = pytest.mark.spark

DELTA = """
import sys, threading, time
from pyspark.sql import SparkSession
spark = (SparkSession.builder.config("spark.sql.extensions", "io.delta.sql.DeltaSparkSessionExtension")
    .config("spark.sql.catalog.spark_catalog", "org.apache.spark.sql.delta.catalog.DeltaCatalog")
    .config("spark.delta.logStore.file.impl", "SlowStore").config("spark.databricks.delta.snapshotPartitions", "1")
    .config("spark.databricks.delta.stats.collect", "false").getOrCreate())
compiler = spark._jvm.org.codehaus.janino.SimpleCompiler()
thread = spark._jvm.java.lang.Thread.currentThread()
compiler.setParentClassLoader(thread.getContextClassLoader())
compiler.cook('''
    import org.apache.hadoop.conf.Configuration;
    import org.apache.hadoop.fs.Path;
    public class SlowStore extends io.delta.storage.HDFSLogStore {
        public SlowStore(Configuration conf) { super(conf); }
        public void write(Path path, java.util.Iterator actions, Boolean overwrite, Configuration conf)
                throws java.io.IOException {
            System.out.println("committing");
            try { Thread.sleep(Long.getLong("commit.ms", 0).longValue()); } catch (InterruptedException e) { }
            super.write(path, actions, overwrite, conf);
        }
    }''')
thread.setContextClassLoader(compiler.getClassLoader())

def append(rows):
    spark.range(rows).selectExpr("sum(id % 10) AS total").write.format("delta").mode("append").save(sys.argv[1])

"""
LONG_JOB = """
append(10)
def tell():
    while not spark.sparkContext.statusTracker().getActiveJobsIds():
        time.sleep(0.01)
    print("working", flush=True)
threading.Thread(target=tell, daemon=True).start()
for _ in range(2):  # the second is what a script does that tries again
    try:
        append(10**15)
    except Exception as error:
        print("failed:", "cancelled" in str(error), flush=True)
"""
COMMIT = """
spark._jvm.java.lang.System.setProperty("commit.ms", sys.argv[2])
append(10)
while True:  # until the deadline has come
    spark.range(1).count()
"""


@pytest.fixture(autouse=True)
def _slow_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow a long grace, as these tests do not check that a commit fits into it; a script that ends does not wait."""
    monkeypatch.setattr("sparklet.spark.runner.MAX_SCRIPT_GRACE_S", deadline_s())


def error_at_deadline(bench: Bench, line: bytes, code: str, *args: str, at_once: bool = False) -> str:
    """Return the error of a script whose deadline comes when the script prints the line."""
    with pytest.raises(DeadlineExceededError, match="commit state unknown") as raised:
        bench.run(DELTA + code, args, limit_s=deadline_s(80), grace_s=10, until=line, at_once=at_once)
    return str(raised.value)


def rows_of(table: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = DeltaTable(str(table)).to_pyarrow_table().to_pylist()
    return rows


def test_a_job_is_cancelled_and_commits_nothing(bench: Bench, tmp_path: Path) -> None:
    error = error_at_deadline(bench, b"working\n", LONG_JOB, str(tmp_path / "table"))

    assert bench.lines.count(("stdout", b"failed: True\n")) == 2, bench.lines
    assert "at line 26 of job.py: its time is over" in error
    assert rows_of(tmp_path / "table") == [{"total": 45}]
    assert len(list((tmp_path / "table" / "_delta_log").glob("*.json"))) == 1


def test_a_commit_that_is_being_written_is_finished(bench: Bench, tmp_path: Path) -> None:
    error_at_deadline(bench, b"committing\n", COMMIT, str(tmp_path / "table"), "500")

    assert rows_of(tmp_path / "table") == [{"total": 45}]


def test_without_a_grace_the_commit_is_not_written(bench: Bench, tmp_path: Path) -> None:
    error_at_deadline(bench, b"committing\n", COMMIT, str(tmp_path / "table"), "600000", at_once=True)

    assert list((tmp_path / "table").glob("*.parquet"))  # the data was written before
    assert not list((tmp_path / "table" / "_delta_log").glob("*.json"))
