"""Warm JVMs that the tests of one pytest process share, if they need no JVM of their own."""

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
    """The jars of S3A and the table formats, from the user's cache; they are fetched on first use."""
    return ensure_jars(STACK, jar_cache(), ["s3a", *FORMATS, "avro", "sqlite"], progress=print)


@pytest.fixture(scope="session")
def jvm(jars: list[Path]) -> Iterator[WarmJvm]:
    """A JVM for scripts in processes of their own, one after the other; it has S3A and every table format."""
    with warm_jvm(spark_driver_extraClassPath=os.pathsep.join(map(str, jars))) as jvm:
        yield jvm


@pytest.fixture(scope="session")
def jvm_here(jars: list[Path]) -> Iterator[WarmJvm]:
    """A JVM for sessions in this process, made by ``session_here``; a second one, since a JVM has only one context."""
    with warm_jvm(spark_driver_extraClassPath=os.pathsep.join(map(str, jars))) as jvm:
        yield jvm


@pytest.fixture(scope="module")
def spark(jvm_here: WarmJvm, tmp_path_factory: pytest.TempPathFactory) -> Iterator["SparkSession"]:
    """A session in this process with all table formats, and a catalog that pyiceberg can use, too."""
    from tests.functional.tables.conftest import configure_catalog, sqlite  # imported late: few tests need its modules

    folder = tmp_path_factory.mktemp("lake")
    conf = {"spark.master": "local[2]", "spark.sql.shuffle.partitions": "1"}
    with pytest.MonkeyPatch.context() as patch:
        configure_catalog(f"file://{folder}", patch, **sqlite(folder))
        with session_here("tables", conf, {}, jvm_here) as session:
            yield session


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A bench with the warm runner and the jars of local workers."""
    scratch = tmp_path_factory.mktemp("warm")
    runner = make("warm", scratch, **local_jars())
    runner.start()
    yield Bench(runner, scratch)
    runner.close()
