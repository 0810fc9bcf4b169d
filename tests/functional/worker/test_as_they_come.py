"""Scripts like those of spark-on-aws-lambda run although their settings are for a JVM that is not started yet."""

from pathlib import Path
from typing import Any

import duckdb
import pytest

from sparklet.spark.warm_runner import WarmRunner
from tests.functional.worker.conftest import Bench

SCRIPTS = Path(__file__).parent / "as_they_come"
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_SESSION_TOKEN": "token"}
HOMES = "id;price\n1;70\n2;80\n"

pytestmark = pytest.mark.spark


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
def test_the_installed_jars_serve_any_version_a_script_names(warm: Bench, homes: dict[str, str]) -> None:
    assert isinstance(warm.runner, WarmRunner)
    jvms = warm.runner.jvm_starts

    warning = run(warm, "delta_by_environment", homes).text("stderr")
    checked = [run(warm, "deequ_by_environment", homes).text("stdout").split()[-1] for _ in range(warm.tasks_per_jvm)]

    rows = duckdb.sql(f"SELECT id, price FROM '{homes['output_path']}/*.parquet' ORDER BY id").fetchall()
    assert rows == [("1", "70"), ("2", "80")]
    assert checked == ["Success"] * warm.tasks_per_jvm
    assert "io.delta:delta-core_2.12-2.2.0.jar" in warning and "delta-spark_2.12-3.3.3.jar" in warning
    assert warm.runner.jvm_starts <= jvms + 1  # only if the first script opened Hive's metastore
