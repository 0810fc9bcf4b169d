"""The catalog ``iceberg`` of Spark and of pyiceberg, from one setting: so both know the same tables.

The setting is the variables that pyiceberg reads, ``PYICEBERG_CATALOG__ICEBERG__TYPE`` (``sql``, ``rest``, ``glue``,
``hive``, ``hadoop``), ``__URI``, ``__WAREHOUSE`` and so on, where ``__`` stands for a dot and ``_`` for a hyphen; or a
warehouse that names its catalog: ``glue:s3://bucket/lake``, or the ARN of a bucket of S3 Tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

ICEBERG_CATALOG, GLUE_CATALOG = "iceberg", "glue_catalog"
SPARK_CATALOG = "org.apache.iceberg.spark.SparkCatalog"
VARIABLES = f"PYICEBERG_CATALOG__{ICEBERG_CATALOG.upper()}__"
BUSY_TIMEOUT_MS = 30_000  # several processes share a file of SQLite
KEYS_OF_AWS = tuple(f"{client}.{key}-" for client in ("client", "glue") for key in ("access", "secret", "session"))
OF_PYICEBERG = ("s3.", "py-", "gcs.", "adls.", "init-", "echo", "pool-", *KEYS_OF_AWS)  # Spark has others
AWS_BUNDLE = "software.amazon.awssdk.services.glue.GlueClient"  # S3A of Hadoop 3.4 brings S3's client alone
DATABASES = ("sqlite", "postgresql", "mysql")


def iceberg_catalog(env: Mapping[str, str], has_class: Callable[[str], bool], warehouse: str | None) -> dict[str, str]:
    """The options of Spark's catalog; without variables that name one it is of files in ``warehouse``, if given."""
    named = catalog_properties(env, warehouse)
    kind = _kind(named)
    if not kind and not warehouse:
        return {}
    properties = {"type": kind or "hadoop", "warehouse": named.get("warehouse", "") if kind else warehouse or ""}
    if kind == "sql":
        properties = {"warehouse": properties["warehouse"], **_jdbc(named["uri"])}
    elif kind in ("rest", "glue", "hive"):
        properties = {key: value for key, value in {**named, **properties}.items() if not key.startswith(OF_PYICEBERG)}
        if kind == "rest" and not has_class(AWS_BUNDLE):  # S3A then, which reads the same addresses
            properties["io-impl"] = "org.apache.iceberg.hadoop.HadoopFileIO"
    if kind:
        properties["cache-enabled"] = "false"  # so that Spark sees what pyiceberg commits for the script
    prefix = f"spark.sql.catalog.{ICEBERG_CATALOG}"
    options = {f"{prefix}.{key}": value for key, value in properties.items() if value}
    return {prefix: SPARK_CATALOG, **options}


def glue_catalog(env: Mapping[str, str], has_class: Callable[[str], bool], warehouse: str | None) -> dict[str, str]:
    """The options of ``glue_catalog``, as Glue's documents call Iceberg's catalog of the Data Catalog's tables.

    It needs no setting: a warehouse is for new tables alone.
    """
    if not has_class(AWS_BUNDLE):
        return {}
    named = catalog_properties(env, warehouse)
    properties = {"catalog-impl": "org.apache.iceberg.aws.glue.GlueCatalog", "cache-enabled": "false"}
    if named.get("type") == "glue" and "warehouse" in named:
        properties["warehouse"] = named["warehouse"]
    prefix = f"spark.sql.catalog.{GLUE_CATALOG}"
    return {prefix: SPARK_CATALOG, **{f"{prefix}.{key}": value for key, value in properties.items()}}


def catalog_properties(env: Mapping[str, str], warehouse: str | None = None) -> dict[str, str]:
    """Pyiceberg's properties of the catalog that the environment names, or else ``warehouse``."""
    named = {
        key[len(VARIABLES) :].lower().replace("__", ".").replace("_", "-"): value
        for key, value in env.items()
        if key.upper().startswith(VARIABLES)
    }
    if "type" in named or "uri" in named:
        return named
    address = named.get("warehouse") or warehouse or ""
    if address.startswith("glue:"):
        return {**named, "type": "glue", "warehouse": address[len("glue:") :].rstrip("/")}
    if not (address.startswith("arn:") and in_table_bucket(address)):
        return named
    partition, region = address.split(":")[1:4:2]
    endpoint = env.get("AWS_ENDPOINT_URL_S3TABLES") or env.get("AWS_ENDPOINT_URL")
    domain = "amazonaws.com.cn" if partition == "aws-cn" else "amazonaws.com"
    uri = f"{endpoint or f'https://s3tables.{region}.{domain}'}/iceberg"
    signed = {"rest.sigv4-enabled": "true", "rest.signing-name": "s3tables", "rest.signing-region": region}
    # What the environment names wins over what the ARN says: the operator chooses.
    return {"type": "rest", "uri": uri, **signed, "client.region": region, **named, "warehouse": address}


def in_table_bucket(warehouse: str) -> bool:
    """Whether tables lie in S3 Tables, also through Glue's REST catalog: their files cannot be listed there."""
    return ":s3tables:" in warehouse or ":s3tablescatalog/" in warehouse


def _kind(named: Mapping[str, str]) -> str:
    """The catalog's type, by default inferred from the address as pyiceberg does; "" for one that Spark lacks."""
    scheme = urlsplit(named.get("uri", "")).scheme.partition("+")[0]
    inferred = {"http": "rest", "https": "rest", "thrift": "hive", **dict.fromkeys(DATABASES, "sql")}.get(scheme, "")
    kind = named.get("type", inferred).lower()
    is_supported = scheme in DATABASES if kind == "sql" else kind in ("rest", "glue", "hive", "hadoop")
    return kind if is_supported else ""


def _jdbc(uri: str) -> dict[str, str]:
    """Options of Iceberg's catalog in a database, from SQLAlchemy's address of it."""
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
