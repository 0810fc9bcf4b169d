"""Spark sessions in this process for Iceberg tables: one session for each catalog that is configured."""

import os
from functools import cache
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from sparklet.job.catalogs import iceberg_catalog
from sparklet.job.session import has_class, s3a_conf


def spark_here(warehouse: str | None = None) -> SparkSession:
    """Return a session with the catalog that the environment names now, or with the catalog of the warehouse."""
    first = SparkSession._instantiatedSession
    assert first, "no fixture has begun a session"
    options = iceberg_catalog(os.environ, lambda name: has_class(first._jvm, name), warehouse)
    conf = first.sparkContext._jsc.hadoopConfiguration()
    for name, value in s3a_conf(os.environ, first._jvm.org.apache.hadoop.util.VersionInfo.getVersion()).items():
        conf.set(name.removeprefix("spark.hadoop."), value)
    if "spark.sql.catalog.iceberg" in options and "AWS_ENDPOINT_URL" in os.environ:  # for S3FileIO
        options["spark.sql.catalog.iceberg.s3.path-style-access"] = "true"
    session = _session(first, tuple(options.items()))
    first._jvm.SparkSession.setActiveSession(session._jsparkSession)
    return session


@cache
def _session(first: SparkSession, options: tuple[tuple[str, str], ...]) -> SparkSession:
    session = first.newSession()
    for name, _ in first.sparkContext.getConf().getAll():
        if name.startswith("spark.sql.catalog.iceberg"):  # it belongs to the test that began the first session
            session.conf.unset(name)
    for name, value in options:
        session.conf.set(name, value)
    return session


def frame_of(rows: pa.Table, partitions: int = 1) -> DataFrame:
    """Return the rows as a frame with so many partitions."""
    names = rows.column_names
    values = [tuple(row[name] for name in names) for row in rows.to_pylist(maps_as_pydicts="strict")]
    fields = [{"name": f.name, "type": _type(f.type), "nullable": True, "metadata": {}} for f in rows.schema]
    schema = StructType.fromJson({"type": "struct", "fields": fields})
    return spark_here().createDataFrame(values, schema).repartition(partitions)


def _type(type_: Any) -> Any:
    """Return a pyarrow type in the JSON of a Spark schema."""
    if pa.types.is_struct(type_):
        fields = [{"name": f.name, "type": _type(f.type), "nullable": True, "metadata": {}} for f in type_]
        return {"type": "struct", "fields": fields}
    if pa.types.is_map(type_):
        key_and_value = {"keyType": _type(type_.key_type), "valueType": _type(type_.item_type)}
        return {"type": "map", **key_and_value, "valueContainsNull": True}
    if pa.types.is_list(type_):
        return {"type": "array", "elementType": _type(type_.value_type), "containsNull": True}
    if pa.types.is_timestamp(type_):
        return "timestamp" if type_.tz else "timestamp_ntz"
    names = {"int64": "long", "int32": "integer", "large_string": "string", "null": "void", "bool": "boolean"}
    return names.get(str(type_), str(type_))
