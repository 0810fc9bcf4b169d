"""The settings that Sparklet adds to a Spark session on each platform."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sparklet.job.session import (
    DELTA,
    HUDI,
    ICEBERG,
    S3A,
    SMALL_TABLES,
    Surroundings,
    jar_class_path,
    platform,
    s3a_conf,
    session_conf,
    table_conf,
)

FUNCTION = {"AWS_LAMBDA_FUNCTION_NAME": "worker"}
EMR_CLASS_PATH = "/usr/lib/hadoop-lzo/lib/x.jar:/usr/share/aws/emr/emrfs/lib/emrfs.jar"


def having(*classes: str) -> Callable[[str], bool]:
    return lambda name: name in classes


ALL = having(S3A, DELTA, ICEBERG, HUDI)
BY_PATH = {"path.style.access": "true", "connection.ssl.enabled": "false"}


@pytest.mark.parametrize(
    ("surroundings", "place"),
    [
        (Surroundings({}), "laptop"),
        (Surroundings({}, {"spark.master": "local[*]"}), "laptop"),
        (Surroundings({}, {"spark.master": "yarn"}), "cluster"),
        (Surroundings({}, {"spark.master": "spark://host:7077"}), "cluster"),
        (Surroundings(FUNCTION, {"spark.master": "local[*]"}), "lambda"),
        (Surroundings({"SPARKLET_OUTCOME_FILE": "f"}), "lambda"),
        (Surroundings({"GLUE_VERSION": "5.0"}), "glue"),
        (Surroundings({}, {"spark.glue.GLUE_VERSION": "5.0", "spark.master": "yarn"}), "glue"),
        (Surroundings({}, {"spark.master": "yarn"}, class_path=EMR_CLASS_PATH), "emr"),
        (Surroundings({}, {"spark.master": "local[*]"}, class_path=EMR_CLASS_PATH), "emr"),
        (Surroundings({}, {"spark.emr-serverless.driverEnv.A": "b"}), "emr"),
    ],
)
def test_the_platform_is_recognized(surroundings: Surroundings, place: str) -> None:
    assert platform(surroundings) == place


@pytest.mark.parametrize("env", [{}, FUNCTION, {"GLUE_VERSION": "5.0"}])
@pytest.mark.parametrize("given", [{}, {"spark.master": "yarn"}, {"spark.master": "local[2]"}])
def test_no_platform_gets_a_setting_for_the_master(env: dict, given: dict) -> None:
    assert "spark.master" not in session_conf(Surroundings(env, given, has_class=ALL))


@pytest.mark.parametrize("env", [{}, FUNCTION])
def test_lambda_and_laptops_use_s3a_and_small_table_settings(env: dict) -> None:
    conf = session_conf(Surroundings(env, has_class=ALL))

    assert conf["spark.hadoop.fs.s3.impl"] == S3A
    assert conf["spark.hadoop.fs.s3a.aws.credentials.provider"].endswith("DefaultAWSCredentialsProviderChain")
    assert conf.items() >= SMALL_TABLES.items()


ELSEWHERE = {
    "emr": Surroundings({}, {"spark.master": "yarn"}, class_path=EMR_CLASS_PATH, has_class=ALL),
    "glue": Surroundings({"GLUE_VERSION": "5.0"}, has_class=ALL),
    "cluster": Surroundings({}, {"spark.master": "yarn"}, has_class=ALL),
}
OWN_S3, NO_S3A = (
    Surroundings({}, s3_impl="com.example.TheirFileSystem", has_class=ALL),
    Surroundings({}, has_class=having(DELTA)),
)


@pytest.mark.parametrize(
    "surroundings", [*ELSEWHERE.values(), OWN_S3, NO_S3A], ids=[*ELSEWHERE, "core-site.xml", "no S3A"]
)
def test_other_platforms_keep_their_own_s3_settings(surroundings: Surroundings) -> None:
    assert not [key for key in session_conf(surroundings) if key.startswith("spark.hadoop.fs.")]


def test_given_settings_are_never_changed() -> None:
    ours = session_conf(Surroundings(FUNCTION, has_class=ALL), warehouse="s3://b/w")
    given = {key: "theirs" for key in ours if key != "spark.sql.extensions"}
    added = session_conf(Surroundings(FUNCTION, given, has_class=ALL), warehouse="s3://b/w")

    assert set(added) == {"spark.sql.extensions"}


def test_given_extensions_stay_and_come_first() -> None:
    given = {"spark.sql.extensions": f"com.example.Theirs, {ICEBERG}"}

    conf = session_conf(Surroundings({}, given, has_class=having(DELTA, ICEBERG)))

    assert conf["spark.sql.extensions"] == f"com.example.Theirs,{ICEBERG},{DELTA}"


def test_every_platform_uses_utc() -> None:
    plain = {"spark.sql.session.timeZone": "UTC"}

    assert session_conf(Surroundings({})) == session_conf(Surroundings({"GLUE_VERSION": "5.0"})) == plain
    assert session_conf(Surroundings(FUNCTION)).items() >= {**plain, "spark.ui.enabled": "false"}.items()


@pytest.mark.parametrize(
    "surroundings", [*ELSEWHERE.values(), Surroundings({}, has_class=having(HUDI))], ids=[*ELSEWHERE, "no Delta"]
)
def test_other_platforms_keep_their_own_table_settings(surroundings: Surroundings) -> None:
    assert not session_conf(surroundings).keys() & SMALL_TABLES.keys()


@pytest.mark.parametrize(
    ("env", "address"),
    [
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:5102", "AWS_REGION": "eu-west-1"},
            {"endpoint.region": "eu-west-1", "endpoint": "http://127.0.0.1:5102", **BY_PATH},
        ),
        (
            {"AWS_ENDPOINT_URL": "http://all", "AWS_ENDPOINT_URL_S3": "https://s3"},
            {"endpoint": "https://s3", **BY_PATH, "connection.ssl.enabled": "true"},
        ),
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, {"endpoint.region": "eu-west-1"}),
        ({"AWS_ENDPOINT_URL": "http://all", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}, {}),
    ],
    ids=["a stand-in", "S3's own endpoint wins and keeps TLS", "real S3 has no endpoint", "switched off"],
)
def test_s3_has_the_address_that_awss_tools_would_use(env: dict, address: dict) -> None:
    conf = {key.removeprefix("spark.hadoop.fs.s3a."): value for key, value in s3a_conf(env, "3.3.4").items()}

    assert conf.pop("spark.hadoop.fs.s3.impl") == S3A
    assert conf.pop("aws.credentials.provider")
    assert conf == address


def test_no_credential_gets_into_the_configuration() -> None:
    keys = {f"AWS_{name}": "SECRET" for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN")}
    env = {**keys, "AWS_ENDPOINT_URL": "http://all", **FUNCTION}

    assert "SECRET" not in str(session_conf(Surroundings(env, has_class=ALL), "w"))


@pytest.mark.parametrize(("version", "package"), [("3.3.4", "com.amazonaws"), ("3.4.2", "software.amazon.awssdk")])
def test_the_credentials_chain_fits_the_sdk_of_hadoops_version(version: str, package: str) -> None:
    def chain(env: dict[str, str]) -> list[str]:
        return s3a_conf(env, version)["spark.hadoop.fs.s3a.aws.credentials.provider"].split(",")

    *own, environment, default = chain({})
    assert environment.startswith(package)
    assert default.startswith(package)
    assert all(provider.startswith("org.apache.hadoop.fs.s3a.") for provider in own)  # the same in either Hadoop

    first, second, *_ = chain({"AWS_SESSION_TOKEN": "t"})
    assert first.endswith("TemporaryAWSCredentialsProvider")  # the script's own
    assert second.endswith("EnvironmentVariableCredentialsProvider")  # before the one that takes keys alone


def test_every_installed_table_format_is_configured() -> None:
    conf = table_conf(ALL, "s3://b/w")

    assert conf["spark.sql.extensions"] == f"{DELTA},{ICEBERG},{HUDI}"
    assert conf["spark.sql.catalog.spark_catalog"] == "org.apache.spark.sql.delta.catalog.DeltaCatalog"
    assert conf["spark.sql.catalog.iceberg.warehouse"] == "s3://b/w"
    assert conf["spark.kryo.registrator"] == "org.apache.spark.HoodieSparkKryoRegistrar"
    assert table_conf(having(HUDI))["spark.sql.catalog.spark_catalog"].endswith("HoodieCatalog")  # Hudi's, if alone


def test_without_jars_or_a_warehouse_there_is_no_catalog() -> None:
    assert table_conf(having(), "w") == {}
    assert table_conf(having(ICEBERG)) == {"spark.sql.extensions": ICEBERG}


def test_sparklet_jars_may_name_files_or_folders(tmp_path: Path) -> None:
    (tmp_path / "jars").mkdir()

    assert jar_class_path(os.pathsep.join([str(tmp_path / "jars"), "/x/one.jar", ""])) == os.pathsep.join(
        [str(tmp_path / "jars" / "*"), "/x/one.jar"]
    )
