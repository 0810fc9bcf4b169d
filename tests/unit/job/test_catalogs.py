"""Spark's Iceberg catalog is the one that pyiceberg's variables name."""

import pytest
from pyiceberg.utils.config import Config

from sparklet.job.catalogs import AWS_BUNDLE, catalog_properties, glue_catalog, iceberg_catalog
from sparklet.job.session import ICEBERG, Surroundings, session_conf, table_conf

PREFIX, WAREHOUSE = "spark.sql.catalog.iceberg", "s3://b/w"


def named(**properties: str) -> dict[str, str]:
    """pyiceberg's environment variables for a catalog with these properties."""
    return {f"PYICEBERG_CATALOG__ICEBERG__{name}": value for name, value in properties.items()}


SQL = named(TYPE="sql", URI="sqlite:////data/my catalog.db", WAREHOUSE=WAREHOUSE)


def catalog(env: dict[str, str], warehouse: str | None = None, *classes: str) -> dict[str, str]:
    options = iceberg_catalog(env, lambda name: name in classes, warehouse)
    return {key.removeprefix(PREFIX).lstrip("."): value for key, value in options.items()}


def rest(**more: str) -> dict[str, str]:
    return named(**{"TYPE": "rest", "URI": "http://h:8181", "WAREHOUSE": WAREHOUSE, **more})


OF_SPARK, UNCACHED = {"": "org.apache.iceberg.spark.SparkCatalog"}, {"cache-enabled": "false"}
IN_SQLITE = {
    **OF_SPARK,
    "catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog",
    "jdbc.schema-version": "V1",
    "jdbc.busy_timeout": "30000",
    "uri": "jdbc:sqlite:/data/my catalog.db",
    "warehouse": WAREHOUSE,
    **UNCACHED,
}
GLUE = named(TYPE="glue", WAREHOUSE=WAREHOUSE, CLIENT__REGION="eu-west-1", GLUE__ID="123456789012")
IN_GLUE = {"type": "glue", "warehouse": WAREHOUSE, "client.region": "eu-west-1", "glue.id": "123456789012"}
AS_FILES = {**OF_SPARK, "type": "hadoop", "warehouse": WAREHOUSE}
UNKNOWN = named(TYPE="bigquery")


@pytest.mark.parametrize(
    ("env", "warehouse", "expected"),
    [
        pytest.param(SQL, None, IN_SQLITE, id="sqlite: the same file"),
        pytest.param(GLUE, None, {**OF_SPARK, **IN_GLUE, **UNCACHED}, id="glue"),
        pytest.param({}, WAREHOUSE, AS_FILES, id="files without a catalog"),
        pytest.param(UNKNOWN, WAREHOUSE, AS_FILES, id="files where Spark knows none"),
        pytest.param({}, None, {}, id="nothing"),
        pytest.param(UNKNOWN, None, {}, id="nothing that Spark knows"),
    ],
)
def test_sparks_catalog_follows_pyicebergs_variables(env: dict, warehouse: str | None, expected: dict) -> None:
    assert catalog(env, warehouse) == expected


def test_user_and_password_are_no_part_of_the_databases_address() -> None:
    options = catalog({**SQL, **named(URI="postgresql+psycopg2://ann:pw@db:5432/lake")})

    assert options["uri"] == "jdbc:postgresql://db:5432/lake"
    assert (options["jdbc.user"], options["jdbc.password"]) == ("ann", "pw")


def test_properties_have_the_names_that_pyiceberg_gives_them(monkeypatch: pytest.MonkeyPatch) -> None:
    env = rest(REST__SIGV4_ENABLED="true", HEADER__X_TENANT="a", TOKEN="t")
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    theirs = Config().get_catalog_config("iceberg")
    assert theirs is not None

    ours = catalog(env, None, AWS_BUNDLE)

    assert {key: value for key, value in ours.items() if key not in ("", "cache-enabled")} == theirs


ARN = "arn:aws:s3tables:eu-west-1:111122223333:bucket/lake"


def test_the_arn_of_a_table_bucket_configures_a_catalog() -> None:
    variables = rest(URI="https://s3tables.eu-west-1.amazonaws.com/iceberg", WAREHOUSE=ARN, CLIENT__REGION="eu-west-1")
    signed = {"SIGV4_ENABLED": "true", "SIGNING_NAME": "s3tables", "SIGNING_REGION": "eu-west-1"}
    variables |= rest(**{f"REST__{name}": value for name, value in signed.items()}) | variables

    assert catalog({}, ARN, AWS_BUNDLE) == catalog(variables, None, AWS_BUNDLE)
    assert catalog(named(WAREHOUSE=ARN), None, AWS_BUNDLE) == catalog({}, ARN, AWS_BUNDLE)


@pytest.mark.parametrize(
    ("env", "arn", "uri"),
    [
        ({}, ARN.replace("aws:", "aws-cn:"), "https://s3tables.eu-west-1.amazonaws.com.cn/iceberg"),
        ({"AWS_ENDPOINT_URL": "http://here"}, ARN, "http://here/iceberg"),
        ({"AWS_ENDPOINT_URL": "http://h", "AWS_ENDPOINT_URL_S3TABLES": "https://vpce"}, ARN, "https://vpce/iceberg"),
    ],
)
def test_the_endpoint_of_s3_tables(env: dict[str, str], arn: str, uri: str) -> None:
    assert catalog_properties(env, arn)["uri"] == uri


def test_a_warehouse_in_glue_configures_a_catalog() -> None:
    assert catalog({}, f"glue:{WAREHOUSE}/") == catalog(named(TYPE="glue", WAREHOUSE=WAREHOUSE))


def test_a_named_catalog_wins_over_one_in_the_warehouse() -> None:
    assert catalog(SQL, ARN) == catalog(SQL)
    assert catalog(SQL, "glue:s3://b/w") == catalog(SQL, "s3://other") == catalog(SQL)


@pytest.mark.parametrize("client", ["S3", "CLIENT", "GLUE"])
def test_pyicebergs_credentials_are_not_passed_to_spark(client: str) -> None:
    keys = {f"{client}__{key}": "SECRET" for key in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN")}

    assert "SECRET" not in str(catalog(rest(**keys)))


def test_without_its_s3_client_iceberg_reads_through_s3a() -> None:
    assert catalog(rest())["io-impl"].endswith("HadoopFileIO")
    assert "io-impl" not in catalog(rest(), None, AWS_BUNDLE)


@pytest.mark.parametrize(
    ("uri", "kind"), [("https://h", "rest"), ("thrift://h:9083", "hive"), ("sqlite:////x", None), ("gopher://h", None)]
)
def test_a_type_that_is_not_set_is_inferred(uri: str, kind: str | None) -> None:
    options = catalog(named(URI=uri))

    assert options.get("type") == kind
    assert ("catalog-impl" in options) == uri.startswith("sqlite")


def test_without_icebergs_jar_there_is_no_catalog() -> None:
    assert table_conf(lambda name: False, "w", SQL) == {}
    assert PREFIX in table_conf(lambda name: name == ICEBERG, None, SQL)


def test_glue_catalog_needs_its_jar_alone() -> None:
    def options(warehouse: str | None, *classes: str) -> dict[str, str]:
        return glue_catalog({}, lambda name: name in classes, warehouse)

    prefix = "spark.sql.catalog.glue_catalog"
    bare = {
        prefix: "org.apache.iceberg.spark.SparkCatalog",
        f"{prefix}.catalog-impl": "org.apache.iceberg.aws.glue.GlueCatalog",
        f"{prefix}.cache-enabled": "false",
    }
    assert options(None) == {}
    assert options("s3://b/w", AWS_BUNDLE) == bare
    assert options("glue:s3://b/w", AWS_BUNDLE) == {**bare, f"{prefix}.warehouse": "s3://b/w"}
    given = Surroundings({}, {f"{prefix}.type": "glue"}, has_class=lambda name: name in (ICEBERG, AWS_BUNDLE))
    assert not [key for key in session_conf(given) if key.startswith(prefix)]
