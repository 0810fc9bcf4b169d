"""Real jars and a stand-in for S3, for what scripts do."""

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
# Of tests with a session in their process: pyspark leaves its sockets to the garbage collector.
SESSION_HERE = [pytest.mark.spark, pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]
FORMATS = [name for name in ("delta", "iceberg", "hudi") if name in load_stack(STACK).groups]


@contextmanager
def session_here(
    name: str, conf: Mapping[str, str], env: Mapping[str, str], jvm: WarmJvm | None = None
) -> Iterator[SparkSession]:
    """A session in this process, and in its environment; without ``jvm`` in a JVM of its own, which ends with it."""
    small = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false"}
    small["spark.driver.extraJavaOptions"] = QUICK_JAVA
    small["spark.sql.codegen.wholeStage"] = "false"  # compiling takes longer than a few rows do
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in {"PYSPARK_PYTHON": sys.executable, **env}.items():
            patch.setenv(variable, value)
        if jvm:
            SparkContext._gateway, SparkContext._jvm = jvm.gateway, jvm.gateway.jvm
        session = Job().spark(name, {**small, **conf})
        session.sparkContext.setLogLevel("OFF")  # the errors here are meant
        yield session
        session.stop()
        if not jvm:
            end_jvm()
            return
        SparkContext._jvm.org.apache.hadoop.fs.FileSystem.closeAll()  # they know this session's endpoint of S3
        SparkContext._gateway = SparkContext._jvm = None  # other tests begin with none


def end_jvm() -> None:
    """End the JVM of this process, so that other tests begin with none."""
    gateway = SparkContext._gateway
    assert gateway is not None
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait(timeout=deadline_s())
    SparkContext._gateway = SparkContext._jvm = None


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint of an empty AWS."""
    with ministack(tmp_path_factory.mktemp("aws")) as endpoint:
        yield endpoint
