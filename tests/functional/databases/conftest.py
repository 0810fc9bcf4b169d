"""A real PostgreSQL, Spark with PostgreSQL's driver, and an account with secrets."""

import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from pyspark.sql import SparkSession

from tests.functional.job.conftest import session_here
from tests.functional.tables.conftest import REGION, aws
from tests.stand_ins.postgresql import OWNER, PASSWORD, PostgreSQL, driver, postgresql

__all__ = ["aws"]
LOG4J = """
rootLogger.level = info
rootLogger.appenderRef.f.ref = f
appender.f.name = f
appender.f.type = File
appender.f.fileName = {file}
appender.f.layout.type = PatternLayout
appender.f.layout.pattern = %m%n%throwable
"""


@pytest.fixture(scope="module")
def account(aws: str) -> Iterator[None]:
    """An account with the owner's login in Secrets Manager and in Parameter Store; the environment points to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("AWS_DEFAULT_REGION", raising=False)
        login = json.dumps({"username": OWNER, "password": PASSWORD})
        secrets = boto3.client("secretsmanager", region_name=REGION)
        secrets.create_secret(Name="owner", SecretString=login)
        secrets.create_secret(Name="odd", SecretString=f'["{PASSWORD}')
        secrets.create_secret(Name="wrong", SecretString=json.dumps({"username": OWNER, "password": f"{PASSWORD}2"}))
        boto3.client("ssm", region_name=REGION).put_parameter(Name="/db/owner", Value=login, Type="SecureString")
        yield


@pytest.fixture(scope="module")
def server() -> Iterator[PostgreSQL]:
    with postgresql() as running:
        yield running


@pytest.fixture(scope="module")
def spark_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the session's log; its level can be changed."""
    return tmp_path_factory.mktemp("spark") / "log"


@pytest.fixture(scope="module")
def spark(spark_log: Path) -> Iterator[SparkSession]:
    properties = spark_log.with_name("log4j2.properties")
    properties.write_text(LOG4J.format(file=spark_log))
    options = f"-XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dlog4j2.configurationFile={properties}"
    conf = {"spark.master": "local[2]", "spark.driver.extraJavaOptions": options}
    with session_here("databases", conf, {"SPARKLET_JARS": str(driver())}) as session:
        yield session
