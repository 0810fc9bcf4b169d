"""Sessions with real jars, and a stand-in for AWS, for tests of scripts."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
from pyspark import SparkContext
from pyspark.sql import SparkSession

from sparklet.job import Job
from sparklet.local.jars import load_stack
from sparklet.local.spark_installation import stack_file
from tests.functional.job.warm_jvm import QUICK_JAVA, WarmJvm
from tests.stand_ins.ministack import ministack
from tests.waiting import deadline_s

STACK = stack_file()
# Marks of tests with a session in their own process; pyspark leaves its sockets to the garbage collector.
SESSION_HERE = [pytest.mark.spark, pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]
FORMATS = [name for name in ("delta", "iceberg", "hudi") if name in load_stack(STACK).groups]


@contextmanager
def session_here(
    name: str, conf: Mapping[str, str], env: Mapping[str, str], jvm: WarmJvm | None = None
) -> Iterator[SparkSession]:
    """Open a session in this process, with ``env`` in its environment.

    Without ``jvm`` the session has a JVM of its own, which ends with the session.
    """
    small = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false"}
    small["spark.driver.extraJavaOptions"] = QUICK_JAVA
    small["spark.sql.codegen.wholeStage"] = "false"  # for a few rows, compiling takes longer than the work
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in {"PYSPARK_PYTHON": sys.executable, **env}.items():
            patch.setenv(variable, value)
        if jvm:
            SparkContext._gateway, SparkContext._jvm = jvm.gateway, jvm.gateway.jvm
        session = Job().spark(name, {**small, **conf})
        session.sparkContext.setLogLevel("OFF")  # the tests cause errors on purpose
        yield session
        session.stop()
        if not jvm:
            end_jvm()
            return
        SparkContext._jvm.org.apache.hadoop.fs.FileSystem.closeAll()  # file systems keep this session's S3 endpoint
        SparkContext._gateway = SparkContext._jvm = None  # other tests start without a JVM


def end_jvm() -> None:
    """End the JVM of this process, so that other tests start without one."""
    gateway = SparkContext._gateway
    assert gateway is not None
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait(timeout=deadline_s())
    SparkContext._gateway = SparkContext._jvm = None


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of an empty stand-in for AWS."""
    with ministack(tmp_path_factory.mktemp("aws")) as endpoint:
        yield endpoint
