"""Places for tables: a local folder and a bucket in the S3 stand-in, each with a catalog for Iceberg tables."""

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from py4j.java_gateway import JavaGateway
from pyiceberg.utils.config import Config
from pyspark.sql import SparkSession

from tests.functional.job.conftest import SESSION_HERE, session_here
from tests.functional.job.warm_jvm import WarmJvm
from tests.functional.tables.lakes import Lake
from tests.stand_ins.iceberg_rest import iceberg_rest, iceberg_rest_jvm
from tests.stand_ins.ministack import ministack

REGION = "us-east-1"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": REGION}


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start an empty AWS stand-in, point the environment to it, and return its endpoint."""
    with ministack(tmp_path_factory.mktemp("aws")) as endpoint, pytest.MonkeyPatch.context() as patch:
        for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": endpoint}.items():
            patch.setenv(name, value)
        yield endpoint


@pytest.fixture(scope="module")
def spark(jvm_here: WarmJvm, aws: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """A session in this process for all formats and S3, with an Iceberg catalog that pyiceberg uses, too."""
    folder = tmp_path_factory.mktemp("lake")
    conf = {"spark.master": "local[2]", "spark.sql.shuffle.partitions": "1", "spark.default.parallelism": "1"}
    with pytest.MonkeyPatch.context() as patch:
        configure_catalog(f"file://{folder}", patch, **sqlite(folder))
        with session_here("tables", conf, {}, jvm_here) as session:
            yield session


@pytest.fixture(scope="session")
def rest_jvm() -> Iterator[JavaGateway]:
    """The JVM in which the REST catalogs of the tests run."""
    with iceberg_rest_jvm() as gateway:
        yield gateway


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """A table in a folder with a space in its name; a % is not tested, as delta-rs 1.6 itself misreads it."""
    place = f"file://{tmp_path}/a b"
    configure_catalog(place, monkeypatch, **sqlite(tmp_path))
    return Lake("", place, {})


@pytest.fixture
def ice(local: Lake, spark: SparkSession) -> Lake:
    """An Iceberg table in a folder, with a Spark session; a test that uses it needs the marks of SESSION_HERE."""
    local.format = "iceberg"
    return local


@pytest.fixture
def delta(local: Lake, spark: SparkSession) -> Lake:
    """A Delta table in a folder, with a Spark session; a test that uses it needs the marks of SESSION_HERE."""
    local.format = "delta"
    return local


@pytest.fixture
def rest(rest_jvm: JavaGateway, ice: Lake, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lake]:
    """An Iceberg table in a folder, to be created in a REST catalog."""
    with iceberg_rest(rest_jvm, f"{ice.place}/warehouse") as uri:
        configure_catalog(ice.place, monkeypatch, TYPE="rest", URI=uri)
        yield ice


@pytest.fixture
def in_s3(aws: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """A table in a new bucket of the S3 stand-in; the caller sets the format."""
    bucket = f"lake-{abs(hash(tmp_path))}"
    boto3.client("s3", endpoint_url=aws, region_name=REGION).create_bucket(Bucket=bucket)
    configure_catalog(f"s3://{bucket}", monkeypatch, **sqlite(tmp_path))
    options = {"aws_allow_http": "true", "s3.endpoint": aws, "s3.region": REGION}
    return Lake("", f"s3://{bucket}", options)


@pytest.fixture(
    params=[
        *(pytest.param(name, marks=SESSION_HERE) for name in ("ice", "delta")),
        pytest.param("rest", marks=[*SESSION_HERE, pytest.mark.nightly]),
    ],
    ids=["iceberg", "delta", "iceberg-rest"],
)
def lake(request: pytest.FixtureRequest) -> Lake:
    """A table of each format in a folder; the table does not exist yet."""
    lake_of_format: Lake = request.getfixturevalue(request.param)
    return lake_of_format


@pytest.fixture(params=[pytest.param(name, marks=SESSION_HERE) for name in ("iceberg", "delta")])
def lake_in_s3(request: pytest.FixtureRequest, in_s3: Lake, spark: SparkSession) -> Lake:
    """A table of each format in S3; the table does not exist yet."""
    in_s3.format = request.param
    return in_s3


def sqlite(folder: Path) -> dict[str, str]:
    return {"TYPE": "sql", "URI": f"sqlite:///{folder}/catalog.db"}


def configure_catalog(place: str, monkeypatch: pytest.MonkeyPatch, **properties: str) -> None:
    for name, value in {"WAREHOUSE": f"{place}/warehouse", **properties}.items():
        monkeypatch.setenv(f"PYICEBERG_CATALOG__ICEBERG__{name}", value)
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())  # pyiceberg reads the environment at import
