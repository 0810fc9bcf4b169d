"""Spark that knows all tables, and deliveries of Kinesis to it."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from sparklet.job import Job
from tests.functional.job.conftest import session_here
from tests.functional.job.warm_jvm import WarmJvm
from tests.functional.tables.conftest import configure_catalog, sqlite
from tests.unit.events import samples

JOB_FAILED = Py4JJavaError, PySparkException  # of Spark 3.5; of 4


@pytest.fixture(scope="module")
def spark(jvm_here: WarmJvm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    folder = tmp_path_factory.mktemp("lake")
    conf = {"spark.master": "local[2]", "spark.sql.shuffle.partitions": "1"}
    with pytest.MonkeyPatch.context() as patch:
        configure_catalog(f"file://{folder}", patch, **sqlite(folder))
        with session_here("streams", conf, {}, jvm_here) as session:
            yield session


@pytest.fixture
def table(tmp_path: Path) -> str:
    return f"delta:{tmp_path}/t"


def rows_of(spark: SparkSession, table: str, *columns: str) -> list[tuple[Any, ...]]:
    format_, _, place = table.partition(":")
    found = spark.table(f"iceberg.{place}") if format_ == "iceberg" else spark.read.format(format_).load(place)
    return sorted(tuple(row) for row in found.selectExpr(*columns).collect())


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def kinesis(*data: bytes, first: int = 100) -> Job:
    """A delivery of records with the sequence numbers from ``first`` on."""
    records = [samples.kinesis(str(number), encoded(each)) for number, each in enumerate(data, first)]
    return Job(event={"Records": records})
