"""One warm JVM of a kind in each of pytest's processes, for all tests that need nothing of their own."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sparklet.local.jars import ensure_jars
from sparklet.local.spark_installation import jar_cache
from tests.functional.job.conftest import FORMATS, STACK, session_here
from tests.functional.job.warm_jvm import WarmJvm, warm_jvm
from tests.functional.worker.conftest import Bench, local_jars, make

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@pytest.fixture(scope="session")
def jars() -> list[Path]:
    """S3A and the table formats, from the user's cache; fetched on first use."""
    return ensure_jars(STACK, jar_cache(), ["s3a", *FORMATS, "avro", "sqlite"], progress=print)


@pytest.fixture(scope="session")
def jvm(jars: list[Path]) -> Iterator[WarmJvm]:
    """For scripts in processes of their own, one after the other; it knows S3 and every table format."""
    with warm_jvm(spark_driver_extraClassPath=os.pathsep.join(map(str, jars))) as jvm:
        yield jvm


@pytest.fixture(scope="session")
def jvm_here(jars: list[Path]) -> Iterator[WarmJvm]:
    """The same for sessions in this process, by ``session_here``: a JVM has one context at a time."""
    with warm_jvm(spark_driver_extraClassPath=os.pathsep.join(map(str, jars))) as jvm:
        yield jvm


@pytest.fixture(scope="module")
def spark(jvm_here: WarmJvm, tmp_path_factory: pytest.TempPathFactory) -> Iterator["SparkSession"]:
    """A session in this process that knows all tables, and a catalog, which pyiceberg knows, too."""
    from tests.functional.tables.conftest import configure_catalog, sqlite  # which load what few tests need

    folder = tmp_path_factory.mktemp("lake")
    conf = {"spark.master": "local[2]", "spark.sql.shuffle.partitions": "1"}
    with pytest.MonkeyPatch.context() as patch:
        configure_catalog(f"file://{folder}", patch, **sqlite(folder))
        with session_here("tables", conf, {}, jvm_here) as session:
            yield session


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The warm runner, with the local workers' jars."""
    scratch = tmp_path_factory.mktemp("warm")
    runner = make("warm", scratch, **local_jars())
    runner.start()
    yield Bench(runner, scratch)
    runner.close()
