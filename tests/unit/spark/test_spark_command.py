"""The image's spark-submit, which pyspark and spark-sql call: options of the command win over the worker's."""

import itertools
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from sparklet.errors import SettingsError
from sparklet.job.session import DELTA
from sparklet.settings import SparkSettings, spark_settings
from sparklet.spark.spark_command import SQL_CLASS, launcher_command, submit
from sparklet.spark.spark_options import SUBMIT


@pytest.fixture
def settings(tmp_path: Path) -> SparkSettings:
    """Settings with a Spark of one jar, and a Delta jar."""
    home = tmp_path / "spark"
    (home / "jars").mkdir(parents=True)
    (home / "jars" / "spark-core.jar").touch()
    (home / "shell.py").touch()
    delta = tmp_path / "delta.jar"
    with zipfile.ZipFile(delta, "w") as jar:
        jar.writestr(f"{DELTA.replace('.', '/')}.class", b"")
    return replace(spark_settings({}), spark_home=home, jars=(delta,))


def _conf(command: list[str]) -> dict[str, str]:
    """The --conf settings of a command; of repeated settings the last wins, as in Spark."""
    pairs = itertools.pairwise(command)
    return dict(value.split("=", 1) for key, value in pairs if key == "--conf")


def test_a_script_gets_the_workers_defaults_unless_overridden(settings: SparkSettings, tmp_path: Path) -> None:
    command = submit(settings, tmp_path, ["--conf", "spark.sql.shuffle.partitions=9", "job.py", "--x"])

    assert command[-2:] == ["job.py", "--x"]
    conf = _conf(command)
    assert conf["spark.sql.shuffle.partitions"] == "9"
    assert conf["spark.hadoop.fs.s3.impl"] == "org.apache.hadoop.fs.s3a.S3AFileSystem"
    assert "spark.sql.extensions" not in conf


def test_options_of_the_driver_become_options_of_java(settings: SparkSettings, tmp_path: Path) -> None:
    asked = {"spark.driver.memory": "3g", "spark.driver.extraJavaOptions": "-Da=b -Dc=d"}
    options = [part for key, value in asked.items() for part in ("--conf", f"{key}={value}")]
    options += ["--conf", "spark.driver.extraClassPath=/mine.jar", "--verbose", "--name", "n"]

    command = submit(settings, tmp_path, [*options, "job.py", "--conf", "spark.driver.memory=9g"])

    assert "-Xmx3g" in command
    assert {"-Da=b", "-Dc=d"} <= set(command)
    # Jars of the class archive come first.
    assert command[command.index("-cp") + 1].split(os.pathsep)[-1] == "/mine.jar"


@pytest.mark.parametrize("arguments", [["pyspark-shell"], ["--class", SQL_CLASS, "spark-internal"]])
def test_a_shell_has_the_table_formats_of_its_jars(
    settings: SparkSettings, tmp_path: Path, arguments: list[str]
) -> None:
    conf = _conf(submit(settings, tmp_path, arguments))

    assert conf["spark.sql.extensions"] == DELTA
    assert conf["spark.sql.catalogImplementation"] == "in-memory"


def test_spark_itself_reads_the_options() -> None:
    settings = spark_settings({})

    words = launcher_command(settings, ["job.py", "--own", "x"])
    sql = launcher_command(settings, ["--driver-memory", "3g", "--class", SQL_CLASS, "-e", "select 1"])
    # as bin/pyspark calls it
    shell = launcher_command(settings, ["pyspark-shell-main", "--name", "PySparkShell", "--conf", "spark.a=b c"])

    assert words[words.index(SUBMIT) + 1 :] == ["job.py", "--own", "x"]
    assert sql[sql.index(SUBMIT) + 1 :][:2] == ["--conf", "spark.driver.memory=3g"]
    assert sql[-3:] == ["spark-internal", "-e", "select 1"]
    assert SUBMIT not in shell and shell[0] == "env" and any("pyspark-shell" in word for word in shell)


def test_a_missing_spark_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="holds no folder jars"):
        launcher_command(replace(spark_settings({}), spark_home=tmp_path), ["job.py"])
