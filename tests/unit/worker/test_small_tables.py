"""What the worker tells table formats, and who wins over it."""

from pathlib import Path

import pytest

from sparklet.job.small_tables import SMALL_TABLES
from sparklet.settings import spark_settings
from sparklet.worker import spark_options
from sparklet.worker.spark_options import process_env, spark_defaults


def test_delta_is_told_even_where_a_script_knows_nothing_of_sparklet() -> None:
    conf = spark_defaults(spark_settings({}), Path("/scratch"))

    assert conf.items() >= SMALL_TABLES.items()


def test_the_operators_word_on_delta_wins() -> None:
    key = next(iter(SMALL_TABLES))
    conf = spark_defaults(spark_settings({"SPARKLET_SPARK_CONF": f'{{"{key}": "50"}}'}), Path("/scratch"))

    assert conf[key] == "50"


def test_hudi_finds_defaults_for_one_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hudi").symlink_to(spark_options.HUDI_DEFAULTS)  # wherever this checkout is
    monkeypatch.setattr(spark_options, "HUDI_DEFAULTS", tmp_path / "hudi")
    folder = Path(process_env(spark_settings({}), {})["HUDI_CONF_DIR"])
    lines = (folder / "hudi-defaults.conf").read_text().splitlines()
    options = dict(line.split("=") for line in lines if line and not line.startswith("#"))

    assert options["hoodie.embed.timeline.server"] == "false"
    assert not [key for key in options if key.startswith("hoodie.table.")]  # what a table says of itself


def test_hudi_is_given_no_folder_that_it_cannot_parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spark_options, "HUDI_DEFAULTS", tmp_path / "with a space")

    assert "HUDI_CONF_DIR" not in process_env(spark_settings({}), {})


def test_the_operators_hudi_defaults_win() -> None:
    assert process_env(spark_settings({}), {"HUDI_CONF_DIR": "/mine"})["HUDI_CONF_DIR"] == "/mine"


def test_hudi_defaults_of_the_machine_are_not_overruled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spark_options, "HUDI_OF_THE_MACHINE", tmp_path)

    assert "HUDI_CONF_DIR" not in process_env(spark_settings({}), {})
