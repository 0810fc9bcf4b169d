"""Real jars and a stand-in for S3, for what scripts do."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparklet.cli.environment import jar_cache
from sparklet.local.jars import ensure_jars
from tests.functional.job.warm_jvm import WarmJvm, warm_jvm
from tests.stand_ins.ministack import ministack

STACK = Path(__file__).parents[3] / "docker" / "stacks" / "spark-3.5.toml"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="session")
def jars() -> list[Path]:
    """S3A and the table formats, from the user's cache; fetched on first use."""
    return ensure_jars(STACK, jar_cache(), ["s3a", "delta", "iceberg", "hudi", "avro", "sqlite"], progress=print)


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
