"""Snowflake's connector and Redshift's driver load together with our jars, and accept the guide's options."""

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from py4j.protocol import Py4JJavaError
from pyspark.errors import IllegalArgumentException
from pyspark.sql import SparkSession

from sparklet.local.jars import ensure_jars, load_stack
from sparklet.local.spark_installation import jar_cache
from tests.functional.job.conftest import STACK, session_here

pytestmark = [pytest.mark.spark, pytest.mark.campaign]
SNOWFLAKE = {
    "sfurl": "account.snowflakecomputing.com",
    "sfuser": "loader",
    "sfdatabase": "db",
    "sfschema": "public",
    "sfwarehouse": "small",
    "dbtable": "daily",
}


@pytest.fixture(scope="module")
def jars() -> list[Path]:
    return ensure_jars(STACK, jar_cache(), [*load_stack(STACK).local, "redshift", "snowflake"], progress=print)


@pytest.fixture(scope="module")
def spark(jars: list[Path]) -> Iterator[SparkSession]:
    with session_here("warehouses", {}, {"SPARKLET_JARS": os.pathsep.join(map(str, jars))}) as session:
        yield session


def test_snowflake_accepts_the_options_of_the_guide(spark: SparkSession) -> None:
    to_scala = spark._jvm.org.apache.spark.api.python.PythonUtils.toScalaMap
    merge = spark._jvm.net.snowflake.spark.snowflake.Parameters.mergeParameters

    merged = merge(to_scala({**SNOWFLAKE, "pem_private_key": "read when it connects"}))

    assert (merged.sfDatabase(), merged.sfURL()) == ("db", "account.snowflakecomputing.com")
    with pytest.raises(IllegalArgumentException, match="sfurl"):
        merge(to_scala({"dbtable": "t"}))


def test_every_class_of_the_connector_finds_what_it_needs(spark: SparkSession, jars: list[Path]) -> None:
    [connector] = [jar for jar in jars if jar.name.startswith("spark-snowflake")]
    names = [name[:-6].replace("/", ".") for name in zipfile.ZipFile(connector).namelist() if name.endswith(".class")]
    loader, missing = spark._jvm.java.lang.Thread.currentThread().getContextClassLoader(), []

    for name in names:
        try:
            spark._jvm.java.lang.Class.forName(name, False, loader).getDeclaredMethods()
        except Py4JJavaError as error:
            missing.append(f"{name}: {error.java_exception.getMessage()}")

    assert len(names) > 100 and not missing


def test_spark_finds_snowflakes_source_and_java_both_drivers(spark: SparkSession) -> None:
    java = spark._jvm
    lookup = java.org.apache.spark.sql.execution.datasources.DataSource.lookupDataSource

    found = lookup("snowflake", spark._jsparkSession.sessionState().conf())

    assert found.getName().startswith("net.snowflake.spark.snowflake")
    assert java.net.snowflake.client.jdbc.SnowflakeDriver().acceptsURL(
        "jdbc:snowflake://account.snowflakecomputing.com"
    )
    assert java.com.amazon.redshift.jdbc.Driver().acceptsURL("jdbc:redshift://cluster:5439/dev")
