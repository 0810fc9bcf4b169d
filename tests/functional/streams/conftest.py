"""Spark that knows all tables, and deliveries of Kinesis to it."""

import base64
from collections.abc import Iterator

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
    """A session in this process, and a catalog."""
    folder = tmp_path_factory.mktemp("lake")
    conf = {"spark.master": "local[2]", "spark.sql.shuffle.partitions": "1"}
    with pytest.MonkeyPatch.context() as patch:
        configure_catalog(f"file://{folder}", patch, **sqlite(folder))
        with session_here("streams", conf, {}, jvm_here) as session:
            yield session


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def kinesis(*data: bytes, first: int = 100) -> Job:
    """A delivery of records with the sequence numbers from ``first`` on."""
    records = [samples.kinesis(str(number), encoded(each)) for number, each in enumerate(data, first)]
    return Job(event={"Records": records})
