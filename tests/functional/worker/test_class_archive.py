"""A worker warns if Java hardly uses the worker's class-data archive."""

import gzip
import logging
from pathlib import Path

import pytest

from sparklet.local.class_data import ClassArchive
from sparklet.local.java import find_java
from sparklet.spark.spark_options import SUBMIT, class_path
from tests.functional.worker.conftest import Bench, make, small_settings

pytestmark = pytest.mark.spark


def test_a_worker_warns_once_of_an_archive_it_hardly_uses(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    without_spark_classes = tmp_path / "classes.gz"
    without_spark_classes.write_bytes(gzip.compress(b"java/lang/Object\n"))
    jars = class_path(small_settings(SPARKLET_JARS=""))
    archive = ClassArchive.of(tmp_path, without_spark_classes, find_java(), jars)
    archive.make()
    assert SUBMIT in archive.refusal(SUBMIT)

    runner = make("warm", tmp_path, SPARKLET_JARS="", SPARKLET_CDS_ARCHIVE=str(archive.path))
    try:
        with caplog.at_level(logging.WARNING):
            bench = Bench(runner, tmp_path)
            bench.settle()
            bench.settle()
    finally:
        runner.close()

    assert ["class-data archive" in record.getMessage() for record in caplog.records] == [True]
    assert runner.jvm_starts == 1  # type: ignore[attr-defined]
