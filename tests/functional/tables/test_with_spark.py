"""Spark processes and commits share a table: Spark reads the commits and writes rows; staging imports few libraries."""

import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import boto3
import duckdb
import pyarrow as pa
import pytest

from sparklet.job.outcome import CLAIMED, OUTCOME_FILE
from sparklet.local.jars import ensure_jars
from sparklet.local.spark_installation import jar_cache
from tests.functional.job.conftest import STACK
from tests.functional.job.warm_jvm import SCRIPTS, WarmJvm, run_script, warm_jvm
from tests.functional.tables.conftest import REGION
from tests.functional.tables.lakes import Lake, table_of
from tests.functional.tables.with_spark import answers, call

pytestmark = [pytest.mark.spark, pytest.mark.slow]
METADATA_COMMITS = 3  # commits to Hudi's metadata table before the test: two create it, and one follows
STAGES_TWICE = """
import sys
from sparklet.job import Job

job = Job.from_args()
spark = job.spark()
spark.sql("CREATE TABLE iceberg.db.t (id BIGINT, ts TIMESTAMP) PARTITIONED BY (days(ts))")
rows = spark.range(3).selectExpr("id", "current_timestamp() AS ts")
before = set(sys.modules)  # where pandas is installed, Spark 4 imports it
print(job.append(rows, "iceberg:db.t") + job.append(rows, sys.argv[-1]))
print({"pyarrow", "pyiceberg"} & (set(sys.modules) - before))
"""
flights = partial(
    table_of,
    pa.schema([("id", pa.int64()), ("day", pa.string()), ("at", pa.timestamp("us", "UTC")), ("name", pa.string())]),
)


def at(microsecond: int) -> datetime:
    return datetime(2013, 1, 1, 5, 0, 0, microsecond, UTC)


READ_MONDAYS = "read", "iceberg", "iceberg.db.t", "day = 'mon'", "id"


def test_spark_and_commits_use_one_rest_catalog(jvm: WarmJvm, rest: Lake) -> None:
    folder = rest.stage(0, flights((1, "mon", at(0), "a"), (2, None, at(1), "b"))).folder
    rest.catalog().create_namespace("db")
    append = "append", "iceberg:db.t", folder

    if not jvm.has_module("jdk.net"):  # in a reduced Java the error names what to install
        log = call(jvm, append).stderr
        assert "TableError: the REST catalog" in log and "JAVA_HOME" in log
        return
    # The results are the counts of rows of both appends, and the ids of Monday's rows.
    assert answers(jvm, append, append, READ_MONDAYS) == [2, 2, [[1], [1]]]
    table = rest.iceberg()
    assert rest.rows("id") == [(1,), (1,), (2,), (2,)]
    files = table.inspect.files()["file_path"].to_pylist()
    folder = f"{table.location().removeprefix('file://')}/data/sparklet/"
    assert all(folder in file for file in files)


def test_staging_imports_no_committers_libraries(jvm: WarmJvm, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(STAGES_TWICE)
    names = {"run": "r", "identity": "r_1", "shard": 0, "attempt": "a", "generation": 0}
    event = {"sparklet": names, "inputs": [], "params": {}, "output_path": f"file://{tmp_path}/staged"}
    env = {
        OUTCOME_FILE: str(tmp_path / "outcome.json"),
        CLAIMED: "1",
        "PYICEBERG_CATALOG__ICEBERG__URI": f"sqlite:///{tmp_path}/catalog.db",
        "PYICEBERG_CATALOG__ICEBERG__WAREHOUSE": f"file://{tmp_path}/warehouse",
    }

    done = jvm.run(str(script), "--event", json.dumps(event), f"delta:{tmp_path}/delta", **env)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["6", "set()"]
    assert len(json.loads((tmp_path / "outcome.json").read_text())["writes"]) == 2


def compactions(table: Path) -> int:
    return len(list((table / ".hoodie" / "metadata" / ".hoodie" / "timeline").glob("*.commit")))


@pytest.mark.nightly
@pytest.mark.hudi
def test_a_fresh_process_compacts_the_metadata_table_and_commits(
    jvm: WarmJvm, jars: list[Path], tmp_path: Path
) -> None:
    """Hudi compacts the metadata table before every tenth commit, which can be the first commit of a process."""
    table, first, later = tmp_path / "table", tmp_path / "first.csv", tmp_path / "later.csv"
    first.write_text("id,name,born\n1,Ada,1815\n2,Grace,1906\n")
    later.write_text("id,name,born\n3,Alan,1912\n")
    made = jvm.run(str(Path(__file__).with_name("hudi_defaults.py")), "--input", first, "--output", table)
    assert made.returncode == 0, made.stderr
    assert compactions(table) == 0
    (tmp_path / "hudi-defaults.conf").write_text(f"hoodie.metadata.compact.max.delta.commits={METADATA_COMMITS}\n")

    env = {"SPARKLET_JARS": os.pathsep.join(map(str, jars)), "HUDI_CONF_DIR": str(tmp_path)}
    # Hudi orders the rows by the field order_by.
    upsert = ["--input", later, "--table", f"hudi:{table}", "--param", "order_by=id"]
    done = run_script(SCRIPTS / "csv_upsert.py", upsert, env)

    assert done.returncode == 0, done.stderr
    assert compactions(table) == 1
    newest = max(table.glob("*.parquet"), key=lambda file: file.stem.rsplit("_", 1)[-1])
    names = duckdb.execute("SELECT name FROM read_parquet(?) ORDER BY id", [str(newest)]).fetchall()
    assert names == [("Ada",), ("Grace",), ("Alan",)]


@pytest.mark.campaign  # the Iceberg AWS bundle is a jar of 69 MB
def test_spark_and_commits_use_one_bucket_of_s3_tables(
    aws: str, jars: list[Path], in_s3: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TYPE", "URI"):
        monkeypatch.delenv(f"PYICEBERG_CATALOG__ICEBERG__{name}")
    bundle = ensure_jars(STACK, jar_cache(), ["iceberg-aws-bundle"], progress=print)
    arn = boto3.client("s3tables", region_name=REGION).create_table_bucket(name="tables")["arn"]
    rows = replace(in_s3, format="iceberg").stage(0, flights((1, "mon", at(0), "a"), (2, None, at(1), "b")))
    append = "append", "iceberg:db.t", rows.folder
    env = {"PYICEBERG_CATALOG__ICEBERG__WAREHOUSE": arn, "output_path": f"{in_s3.place}/out"}

    with warm_jvm(spark_driver_extraClassPath=os.pathsep.join(map(str, [*jars, *bundle]))) as jvm:
        # The results are the counts of rows of both appends, and the ids of Monday's rows.
        assert answers(jvm, append, append, READ_MONDAYS, **env) == [2, 2, [[1], [1]]]
