"""The options of the catalog ``iceberg``, for Spark and for pyiceberg from one setting: so both have the same tables.

The setting is either the environment variables that pyiceberg reads, ``PYICEBERG_CATALOG__ICEBERG__TYPE`` (``sql``,
``rest``, ``glue``, ``hive``, ``hadoop``), ``__URI``, ``__WAREHOUSE`` and so on, where ``__`` stands for a dot and ``_``
for a hyphen; or a warehouse that also names its catalog: ``glue:s3://bucket/lake``, or the ARN of an S3 table bucket.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

ICEBERG_CATALOG, GLUE_CATALOG = "iceberg", "glue_catalog"
SPARK_CATALOG = "org.apache.iceberg.spark.SparkCatalog"
VARIABLES = f"PYICEBERG_CATALOG__{ICEBERG_CATALOG.upper()}__"
BUSY_TIMEOUT_MS = 30_000  # several processes share an SQLite file
AWS_KEYS = tuple(f"{client}.{key}-" for client in ("client", "glue") for key in ("access", "secret", "session"))
# Prefixes of properties that only pyiceberg reads; Iceberg in Java has other names for them.
PYICEBERG_ONLY = ("s3.", "py-", "gcs.", "adls.", "init-", "echo", "pool-", *AWS_KEYS)
AWS_BUNDLE = "software.amazon.awssdk.services.glue.GlueClient"  # not in Hadoop 3.4's S3A, which brings only S3's client
DATABASES = ("sqlite", "postgresql", "mysql")


def iceberg_catalog(env: Mapping[str, str], has_class: Callable[[str], bool], warehouse: str | None) -> dict[str, str]:
    """Return the options of Spark's catalog ``iceberg``; {} without settings.

    If there is only a warehouse, the catalog has the type ``hadoop``.
    """
    configured = catalog_properties(env, warehouse)
    catalog_type = _catalog_type(configured)
    if not catalog_type and not warehouse:
        return {}
    properties = {"type": "hadoop", "warehouse": warehouse or ""}
    if catalog_type:
        properties = {"type": catalog_type, "warehouse": configured.get("warehouse", "")}
    if catalog_type == "sql":
        properties = {"warehouse": properties["warehouse"], **_jdbc(configured["uri"])}
    elif catalog_type in ("rest", "glue", "hive"):
        all_properties = {**configured, **properties}
        properties = {key: value for key, value in all_properties.items() if not key.startswith(PYICEBERG_ONLY)}
        # Without Iceberg's own S3 client S3A is used, which reads the same addresses.
        if catalog_type == "rest" and not has_class(AWS_BUNDLE):
            properties["io-impl"] = "org.apache.iceberg.hadoop.HadoopFileIO"
    if catalog_type:
        properties["cache-enabled"] = "false"  # so that Spark sees what pyiceberg commits for the script
    prefix = f"spark.sql.catalog.{ICEBERG_CATALOG}"
    options = {f"{prefix}.{key}": value for key, value in properties.items() if value}
    return {prefix: SPARK_CATALOG, **options}


def glue_catalog(env: Mapping[str, str], has_class: Callable[[str], bool], warehouse: str | None) -> dict[str, str]:
    """Return the options of ``glue_catalog``, Glue's name for the Data Catalog's Iceberg tables; {} without AWS's jar.

    No setting is needed: only new tables need a warehouse.
    """
    if not has_class(AWS_BUNDLE):
        return {}
    configured = catalog_properties(env, warehouse)
    properties = {"catalog-impl": "org.apache.iceberg.aws.glue.GlueCatalog", "cache-enabled": "false"}
    if configured.get("type") == "glue" and "warehouse" in configured:
        properties["warehouse"] = configured["warehouse"]
    prefix = f"spark.sql.catalog.{GLUE_CATALOG}"
    return {prefix: SPARK_CATALOG, **{f"{prefix}.{key}": value for key, value in properties.items()}}


def catalog_properties(env: Mapping[str, str], warehouse: str | None = None) -> dict[str, str]:
    """Return pyiceberg's properties of the catalog that the environment names, or else the warehouse."""
    configured = {
        key[len(VARIABLES) :].lower().replace("__", ".").replace("_", "-"): value
        for key, value in env.items()
        if key.upper().startswith(VARIABLES)
    }
    if "type" in configured or "uri" in configured:
        return configured
    address = configured.get("warehouse") or warehouse or ""
    if address.startswith("glue:"):
        return {**configured, "type": "glue", "warehouse": address[len("glue:") :].rstrip("/")}
    if not (address.startswith("arn:") and in_table_bucket(address)):
        return configured
    _, partition, _, region, *_ = address.split(":")
    endpoint = env.get("AWS_ENDPOINT_URL_S3TABLES") or env.get("AWS_ENDPOINT_URL")
    domain = "amazonaws.com.cn" if partition == "aws-cn" else "amazonaws.com"
    uri = f"{endpoint or f'https://s3tables.{region}.{domain}'}/iceberg"
    signing = {"rest.sigv4-enabled": "true", "rest.signing-name": "s3tables", "rest.signing-region": region}
    # The environment takes precedence over the ARN: the operator chooses.
    return {"type": "rest", "uri": uri, **signing, "client.region": region, **configured, "warehouse": address}


def in_table_bucket(warehouse: str) -> bool:
    """Whether a warehouse is in S3 Tables, also through Glue's REST catalog: its tables' files cannot be listed."""
    return ":s3tables:" in warehouse or ":s3tablescatalog/" in warehouse


def _catalog_type(configured: Mapping[str, str]) -> str:
    """Return the catalog's type, or infer it from the address as pyiceberg does; "" if Spark lacks the type."""
    scheme = urlsplit(configured.get("uri", "")).scheme.partition("+")[0]
    inferred = {"http": "rest", "https": "rest", "thrift": "hive", **dict.fromkeys(DATABASES, "sql")}.get(scheme, "")
    catalog_type = configured.get("type", inferred).lower()
    is_supported = catalog_type in ("rest", "glue", "hive", "hadoop")
    if catalog_type == "sql":
        is_supported = scheme in DATABASES
    return catalog_type if is_supported else ""


def _jdbc(uri: str) -> dict[str, str]:
    """Return the options of Iceberg's catalog in a database, which is given by its SQLAlchemy address."""
    address = urlsplit(uri)
    dialect = address.scheme.partition("+")[0]
    # pyiceberg's tables in such a database have the column iceberg_type, which came with V1.
    properties = {"catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog", "jdbc.schema-version": "V1"}
    if dialect == "sqlite":  # sqlite:////absolute/path
        return {**properties, "uri": f"jdbc:sqlite:{address.path[1:]}", "jdbc.busy_timeout": str(BUSY_TIMEOUT_MS)}
    return {
        **properties,
        "uri": f"jdbc:{dialect}://{address.netloc.rpartition('@')[2]}{address.path}",
        "jdbc.user": address.username or "",
        "jdbc.password": address.password or "",
    }
