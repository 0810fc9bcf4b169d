"""What the worker tells table formats, and who wins over it."""

import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

import sparklet
from sparklet.job.session import SMALL_TABLES
from sparklet.settings import spark_settings
from sparklet.spark import spark_options
from sparklet.spark.spark_options import process_env, spark_defaults


def test_delta_defaults_reach_scripts_without_sparklet() -> None:
    conf = spark_defaults(spark_settings({}), Path("/scratch"))

    assert conf.items() >= SMALL_TABLES.items()


def test_hudis_defaults_are_for_one_machine() -> None:
    lines = (spark_options.HUDI_DEFAULTS / "hudi-defaults.conf").read_text().splitlines()
    options = dict(line.split("=") for line in lines if line and not line.startswith("#"))

    assert options["hoodie.embed.timeline.server"] == "false"
    assert not [key for key in options if key.startswith("hoodie.table.")]  # what a table says of itself


@pytest.mark.parametrize("name", ["a space", "100 %", "a%20space", "#1?", "späte"])
def test_hudi_defaults_are_given_as_a_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / name).symlink_to(spark_options.HUDI_DEFAULTS)
    monkeypatch.setattr(spark_options, "HUDI_DEFAULTS", tmp_path / name)
    told = [process_env(spark_settings({}), {})["HUDI_CONF_DIR"] for _ in range(2)]

    assert told[0] == told[1] == quote(told[0])  # and a worker's tasks do not use up its descriptors
    assert (Path(told[0]) / "hudi-defaults.conf").samefile(tmp_path / name / "hudi-defaults.conf")


FROM_ELSEWHERE = """
import os, subprocess
from sparklet.settings import spark_settings
from sparklet.spark.spark_options import process_env

look = ["/bin/sh", "-c", 'echo "$0"; cat "$0/hudi-defaults.conf"', process_env(spark_settings({}), {})["HUDI_CONF_DIR"]]
subprocess.run(look, check=True)
os.execv(look[0], look)
"""


def test_child_and_successor_processes_find_hudis_defaults(tmp_path: Path) -> None:
    (tmp_path / "a space").symlink_to(Path(sparklet.__file__).parents[1])
    said = subprocess.run(
        [sys.executable, "-c", FROM_ELSEWHERE],
        env={"PYTHONPATH": str(tmp_path / "a space")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    expected = (spark_options.HUDI_DEFAULTS / "hudi-defaults.conf").read_text()

    assert re.sub("^/proc/.*\n", "", said, flags=re.MULTILINE) == expected * 2


def test_hudi_defaults_of_others_are_not_overruled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert process_env(spark_settings({}), {"HUDI_CONF_DIR": "/mine"})["HUDI_CONF_DIR"] == "/mine"  # the operator's

    monkeypatch.setattr(spark_options, "HUDI_OF_THE_MACHINE", tmp_path)
    assert "HUDI_CONF_DIR" not in process_env(spark_settings({}), {})
