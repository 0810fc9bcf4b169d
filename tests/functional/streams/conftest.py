"""Tables, and deliveries of Kinesis records to them."""

import base64
from pathlib import Path
from typing import Any

import pytest
from py4j.protocol import Py4JJavaError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from sparklet.job import Job
from tests.unit.events import samples

JOB_FAILED = Py4JJavaError, PySparkException  # the errors of Spark 3.5, and of Spark 4


@pytest.fixture
def table(tmp_path: Path) -> str:
    return f"delta:{tmp_path}/t"


def rows_of(spark: SparkSession, table: str, *columns: str) -> list[tuple[Any, ...]]:
    format_, _, name = table.partition(":")
    frame = spark.table(f"iceberg.{name}") if format_ == "iceberg" else spark.read.format(format_).load(name)
    return sorted(tuple(row) for row in frame.selectExpr(*columns).collect())


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def kinesis(*data: bytes, first: int = 100) -> Job:
    """A job with a batch of records, whose sequence numbers begin with ``first``."""
    records = [samples.kinesis(str(number), encoded(each)) for number, each in enumerate(data, first)]
    return Job(event={"Records": records})
