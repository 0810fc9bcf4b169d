"""Real jars and a stand-in for S3, for what scripts do."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyspark import SparkContext
from pyspark.sql import SparkSession

from sparklet.job import Job
from sparklet.local.jars import ensure_jars, load_stack
from sparklet.local.spark_installation import jar_cache, stack_file
from tests.functional.job.warm_jvm import WarmJvm, warm_jvm
from tests.stand_ins.ministack import ministack
from tests.waiting import deadline_s

STACK = stack_file()
FORMATS = [name for name in ("delta", "iceberg", "hudi") if name in load_stack(STACK).groups]
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@contextmanager
def session_here(name: str, conf: Mapping[str, str], env: Mapping[str, str]) -> Iterator[SparkSession]:
    """A session in this process, and in its environment; its JVM has ended afterwards."""
    small = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false"}
    small["spark.driver.extraJavaOptions"] = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in {"PYSPARK_PYTHON": sys.executable, **env}.items():
            patch.setenv(variable, value)
        session = Job().spark(name, {**small, **conf})
        session.sparkContext.setLogLevel("OFF")  # the errors here are meant
        yield session
        session.stop()
        end_jvm()


def end_jvm() -> None:
    """End the JVM of this process, so that other tests begin with none."""
    gateway = SparkContext._gateway
    assert gateway is not None
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait(timeout=deadline_s())
    SparkContext._gateway = SparkContext._jvm = None


@pytest.fixture(scope="session")
def jars() -> list[Path]:
    """S3A and the table formats, from the user's cache; fetched on first use."""
    return ensure_jars(STACK, jar_cache(), ["s3a", *FORMATS, "avro", "sqlite"], progress=print)


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of an empty AWS."""
    with ministack(tmp_path_factory.mktemp("aws")) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def table_jvm(jars: list[Path]) -> Iterator[WarmJvm]:
    """A JVM that knows S3 and every table format, with credentials in its environment."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        with warm_jvm(spark_driver_extraClassPath=os.pathsep.join(map(str, jars))) as jvm:
            yield jvm
