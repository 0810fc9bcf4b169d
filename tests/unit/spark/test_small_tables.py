"""The worker's default settings for table formats, and the settings that win over them."""

import re
import subprocess
import sys
import zipfile
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from py4j.protocol import Py4JJavaError
from pyspark.sql import DataFrameWriter

import sparklet
from sparklet.job.session import SMALL_TABLES
from sparklet.settings import spark_settings
from sparklet.spark import spark_options
from sparklet.spark.java_classes import HUDI_LOCK, mark
from sparklet.spark.script_main import CONFLICT, MAX_CONFLICTS, retry_conflicts
from sparklet.spark.spark_options import process_env, spark_defaults


def test_delta_defaults_reach_scripts_without_sparklet() -> None:
    conf = spark_defaults(spark_settings({}), Path("/scratch"))

    assert conf.items() >= SMALL_TABLES.items()


def hudi_defaults(folder: str) -> dict[str, str]:
    lines = (Path(folder) / "hudi-defaults.conf").read_text().splitlines()
    return dict(line.split("=") for line in lines if line and not line.startswith("#"))


def test_hudis_defaults_suit_a_single_machine() -> None:
    options = hudi_defaults(process_env(spark_settings({}), {})["HUDI_CONF_DIR"])

    assert options["hoodie.embed.timeline.server"] == "false"
    assert not [key for key in options if key.startswith("hoodie.table.")]  # settings of single tables


def test_hudi_gets_our_lock_only_if_our_jar_has_it(tmp_path: Path) -> None:
    own, lock = (
        tmp_path / f"{mark()}.jar",
        {"hoodie.write.lock.provider": HUDI_LOCK[: -len(".class")].replace("/", ".")},
    )

    def options(*classes: str, **settings: str) -> dict[str, str]:
        with zipfile.ZipFile(own, "w") as jar:
            for name in classes:
                jar.writestr(name, "")
        return hudi_defaults(process_env(spark_settings({"SPARKLET_JARS": str(own), **settings}), {})["HUDI_CONF_DIR"])

    without = options("WarmJvm.class")
    assert not [key for key in without if "lock" in key or "concurrency" in key]
    assert options(HUDI_LOCK).items() >= {**without, **lock}.items()
    assert options(HUDI_LOCK, SPARKLET_SPARK_CONF='{"spark.master": "spark://host:7077"}') == without


@pytest.mark.parametrize("name", ["a space", "100 %", "a%20space", "#1?", "späte"])
def test_hudi_defaults_are_given_as_a_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / name).symlink_to(spark_options.HUDI_DEFAULTS)
    monkeypatch.setattr(spark_options, "HUDI_DEFAULTS", tmp_path / name)
    told = [process_env(spark_settings({}), {})["HUDI_CONF_DIR"] for _ in range(2)]

    assert told[0] == told[1] == quote(told[0])  # the same descriptor each time
    assert (Path(told[0]) / "hudi-defaults.conf").samefile(tmp_path / name / "hudi-defaults.conf")


CHILD_AND_SUCCESSOR = """
import os, subprocess
from sparklet.settings import spark_settings
from sparklet.spark.script_main import CONFLICT, MAX_CONFLICTS, retry_conflicts
from sparklet.spark.spark_options import process_env

look = ["/bin/sh", "-c", 'echo "$0"; cat "$0/hudi-defaults.conf"', process_env(spark_settings({}), {})["HUDI_CONF_DIR"]]
subprocess.run(look, check=True)
os.execv(look[0], look)
"""


def test_child_and_successor_processes_find_hudis_defaults(tmp_path: Path) -> None:
    (tmp_path / "a space").symlink_to(Path(sparklet.__file__).parents[1])
    said = subprocess.run(
        [sys.executable, "-c", CHILD_AND_SUCCESSOR],
        env={"PYTHONPATH": str(tmp_path / "a space")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    expected = (spark_options.HUDI_DEFAULTS / "hudi-defaults.conf").read_text()

    assert re.sub("^/proc/.*\n", "", said, flags=re.MULTILINE) == expected * 2


def test_hudi_defaults_of_operator_or_machine_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert process_env(spark_settings({}), {"HUDI_CONF_DIR": "/mine"})["HUDI_CONF_DIR"] == "/mine"  # the operator's

    monkeypatch.setattr(spark_options, "HUDI_OF_THE_MACHINE", tmp_path)
    assert "HUDI_CONF_DIR" not in process_env(spark_settings({}), {})


@pytest.mark.parametrize(
    ("conflicts", "error", "saves"),
    [
        (3, CONFLICT, 4),
        (MAX_CONFLICTS, CONFLICT, MAX_CONFLICTS + 1),
        (MAX_CONFLICTS + 1, CONFLICT, None),
        (1, "", None),
    ],
)
def test_a_hudi_write_that_meets_a_conflict_is_repeated(
    monkeypatch: pytest.MonkeyPatch, conflicts: int, error: str, saves: int | None
) -> None:
    calls: list[tuple[str, str]] = []

    def save(_: DataFrameWriter, path: str, **options: str) -> None:
        calls.append((path, options["mode"]))
        if len(calls) <= conflicts:
            raise Py4JJavaError(
                "", SimpleNamespace(_target_id="o1", toString=lambda: f"org.apache.hudi.{error}: too late")
            )

    monkeypatch.setattr(DataFrameWriter, "save", save)
    monkeypatch.setattr("sparklet.spark.script_main.time.sleep", lambda _: None)
    retry_conflicts()
    with nullcontext() if saves else pytest.raises(Py4JJavaError):
        DataFrameWriter.save(DataFrameWriter.__new__(DataFrameWriter), "s3://lake/t", mode="append")

    assert calls == [("s3://lake/t", "append")] * (saves or (conflicts if error else 1))
