"""Tables of Delta in Glue's Data Catalog, where Athena finds them by name."""

from __future__ import annotations

import os
import re
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable

from sparklet.job.catalogs import catalog_properties
from sparklet.job.errors import TableError
from sparklet.tables.iceberg import load
from sparklet.tables.staged_files import delta_place, hive_type

_HIVE, _HADOOP = "org.apache.hadoop.hive", "org.apache.hadoop.mapred"


def register(place: str, warehouse: str | None) -> None:
    """Enter a Delta table at ``WAREHOUSE/DATABASE.db/TABLE`` as ``DATABASE.TABLE``, or update its entry.

    Nothing happens if the table lies elsewhere. TableError if another table has the name.
    """
    root = catalog_properties(os.environ, warehouse).get("warehouse", "").rstrip("/")
    found = re.fullmatch(re.escape(root) + r"/([^/]+)\.db/([^/]+)", place)
    if found is None:
        return
    database, name = found.groups()
    catalog: Any = load(warehouse)
    try:
        old = catalog.glue.get_table(DatabaseName=database, Name=name)["Table"]
    except catalog.glue.exceptions.EntityNotFoundException:
        old = None
    new = _entry(name, place)  # read after the entry, so that an old schema replaces no newer one
    if old is None:
        if not catalog.namespace_exists(database):  # many who may make tables may make no database
            catalog.create_namespace_if_not_exists(database)
        catalog.glue.create_table(DatabaseName=database, TableInput=new)
    elif (there := old["StorageDescriptor"].get("Location", "").rstrip("/")) != place:
        raise TableError(f"{place} is written, but Glue's catalog has {database}.{name} at {there}")
    elif _columns(old) != _columns(new):
        new["Parameters"] = {**old["Parameters"], **new["Parameters"]}
        catalog.glue.update_table(DatabaseName=database, TableInput=new, VersionId=old["VersionId"])


def _entry(name: str, place: str) -> dict[str, Any]:
    """A Delta table's entry, as Glue's own crawlers write it."""
    uri, options = delta_place(place)
    table = DeltaTable(uri, storage_options=options)
    columns = {each.name: {"Name": each.name, "Type": hive_type(each.type)} for each in pa.schema(table.schema())}
    serde = {"serialization.format": "1", "path": place}
    return {
        "Name": name,
        "TableType": "EXTERNAL_TABLE",
        "Parameters": {"EXTERNAL": "TRUE", "table_type": "DELTA", "spark.sql.sources.provider": "delta"},
        "PartitionKeys": [columns.pop(key) for key in table.metadata().partition_columns],
        "StorageDescriptor": {
            "Columns": list(columns.values()),
            "Location": place,
            "InputFormat": f"{_HADOOP}.SequenceFileInputFormat",
            "OutputFormat": f"{_HIVE}.ql.io.HiveSequenceFileOutputFormat",
            "SerdeInfo": {"SerializationLibrary": f"{_HIVE}.serde2.lazy.LazySimpleSerDe", "Parameters": serde},
        },
    }


def _columns(entry: dict[str, Any]) -> list[Any]:
    return [entry["StorageDescriptor"]["Columns"], entry["PartitionKeys"]]
