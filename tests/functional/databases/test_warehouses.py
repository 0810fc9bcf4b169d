"""Redshift's and Snowflake's connectors: they load beside our jars and take the guide's options."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
from py4j.protocol import Py4JJavaError
from pyspark.sql import SparkSession

from sparklet.cli.environment import JAR_GROUPS, jar_cache
from sparklet.local.jars import ensure_jars
from tests.functional.job.conftest import STACK, session_here

pytestmark = [pytest.mark.spark, pytest.mark.campaign]
REDSHIFT = {
    "url": "jdbc:redshift:iam://cluster/dev",
    "dbtable": "public.daily",
    "tempdir": "s3a://bucket/tmp/",
    "tempformat": "PARQUET",
    "aws_iam_role": "arn:aws:iam::123456789012:role/copy",
    "secret.id": "prod/warehouse",
}
SNOWFLAKE = {
    "sfURL": "account.snowflakecomputing.com",
    "sfUser": "loader",
    "sfDatabase": "db",
    "sfSchema": "public",
    "sfWarehouse": "small",
    "pem_private_key": "",  # set by the fixture
    "dbtable": "daily",
}


@pytest.fixture(scope="module")
def spark() -> Iterator[SparkSession]:
    jars = ensure_jars(STACK, jar_cache(), [*JAR_GROUPS, "redshift", "snowflake"], progress=print)
    with session_here("warehouses", {}, {"SPARKLET_JARS": os.pathsep.join(map(str, jars))}) as session:
        yield session


def source(spark: SparkSession, name: str) -> str:
    """The class that Spark finds for a name of a source."""
    lookup = spark._jvm.org.apache.spark.sql.execution.datasources.DataSource.lookupDataSource
    return str(lookup(name, spark._jsparkSession.sessionState().conf()).getName())


def merged(spark: SparkSession, parameters: Any, options: dict[str, str]) -> Any:
    to_scala = spark._jvm.org.apache.spark.api.python.PythonUtils.toScalaMap
    return parameters.mergeParameters(to_scala(options))


def test_redshift_is_found_and_takes_its_options(spark: SparkSession) -> None:
    package = spark._jvm.io.github.spark_redshift_community.spark.redshift
    name = "io.github.spark_redshift_community.spark.redshift"

    assert source(spark, name).startswith(name)
    assert spark._jvm.com.amazon.redshift.jdbc.Driver().acceptsURL(REDSHIFT["url"])
    assert merged(spark, package.Parameters, REDSHIFT).tempFormat() == "PARQUET"
    with pytest.raises(Py4JJavaError, match="tempdir"):
        merged(spark, package.Parameters, {"url": REDSHIFT["url"], "dbtable": "t"})


def test_snowflake_is_found_and_takes_its_options(spark: SparkSession) -> None:
    package = spark._jvm.net.snowflake.spark.snowflake
    pair = spark._jvm.java.security.KeyPairGenerator.getInstance("RSA").generateKeyPair()
    key = spark._jvm.java.util.Base64.getEncoder().encodeToString(pair.getPrivate().getEncoded())

    options = {name.lower(): value for name, value in {**SNOWFLAKE, "pem_private_key": key}.items()}

    assert source(spark, "snowflake").startswith("net.snowflake.spark.snowflake")
    assert spark._jvm.net.snowflake.client.jdbc.SnowflakeDriver().acceptsURL("jdbc:snowflake://account/")
    assert merged(spark, package.Parameters, options).sfDatabase() == "db"
    with pytest.raises(Py4JJavaError, match=r"(?i)sfurl"):
        merged(spark, package.Parameters, {"dbtable": "t"})
