"""Scripts in the shapes of spark-on-aws-lambda's own: what their settings ask of a JVM that runs already."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from sparklet.errors import LocalStackError
from sparklet.spark.warm_runner import WarmRunner
from tests.functional.worker.conftest import Bench, local_jars, make

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


@pytest.fixture
def bench(tmp_path: Path, all_jars: dict[str, str]) -> Iterator[Bench]:
    """The warm runner, with the jars of the local workers."""
    runner = make("warm", tmp_path, **all_jars)
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
    assert isinstance(bench.runner, WarmRunner)
    assert bench.runner.jvm_starts <= 2  # the first only if the script before it opened Hive's metastore
