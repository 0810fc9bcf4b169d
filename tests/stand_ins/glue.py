"""Glue's Data Catalog in memory, and entries in the form in which Athena and crawlers write them."""

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from sparklet.connectors.data_catalog.glue import GlueCatalog

HIVE = "org.apache.hadoop.hive"
SERDES = {
    "parquet": (f"{HIVE}.ql.io.parquet.MapredParquetInputFormat", f"{HIVE}.ql.io.parquet.serde.ParquetHiveSerDe"),
    "orc": (f"{HIVE}.ql.io.orc.OrcInputFormat", f"{HIVE}.ql.io.orc.OrcSerde"),
    "json": ("org.apache.hadoop.mapred.TextInputFormat", "org.openx.data.jsonserde.JsonSerDe"),
    "delimited": ("org.apache.hadoop.mapred.TextInputFormat", f"{HIVE}.serde2.lazy.LazySimpleSerDe"),
    "csv": ("org.apache.hadoop.mapred.TextInputFormat", f"{HIVE}.serde2.OpenCSVSerde"),
    "avro": (f"{HIVE}.ql.io.avro.AvroContainerInputFormat", f"{HIVE}.serde2.avro.AvroSerDe"),
    "symlink": (f"{HIVE}.ql.io.SymlinkTextInputFormat", f"{HIVE}.ql.io.parquet.serde.ParquetHiveSerDe"),
    "hudi": ("org.apache.hudi.hadoop.HoodieParquetInputFormat", f"{HIVE}.ql.io.parquet.serde.ParquetHiveSerDe"),
}


def columns(text: str) -> list[dict[str, str]]:
    """Return Glue's form of a list of columns such as ``id int;day date``."""
    pairs = (each.strip().split(" ", 1) for each in text.split(";") if each)
    return [{"Name": name, "Type": type_} for name, type_ in pairs]


def table_input(
    name: str,
    location: str,
    of: str = "id int;text string",
    by: str = "",
    form: str = "parquet",
    serde: dict[str, str] | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return a table's entry: ``of`` are its columns, ``by`` its partition columns, ``more`` replaces keys of it."""
    reader, library = SERDES[form]
    stored = {
        "Columns": columns(of),
        "Location": location,
        "InputFormat": reader,
        "SerdeInfo": {"SerializationLibrary": library, "Parameters": serde or {"serialization.format": "1"}},
    }
    entry = {"Name": name, "StorageDescriptor": stored, "PartitionKeys": columns(by), "TableType": "EXTERNAL_TABLE"}
    return {**entry, "Parameters": {"EXTERNAL": "TRUE"}, **more}


def partition_input(table: dict[str, Any], values: Sequence[str], location: str, **stored: Any) -> dict[str, Any]:
    """Return a partition's entry; ``stored`` replaces keys of the storage descriptor, which is else the table's."""
    return {"Values": [*values], "StorageDescriptor": {**table["StorageDescriptor"], "Location": location, **stored}}


class MemoryGlue:
    """Answers like Glue's client, with two partitions per page; it ignores filters, as some stand-ins do."""

    def __init__(self, *tables: dict[str, Any]) -> None:
        self.tables = {table["Name"]: table for table in tables}
        self.partitions: list[dict[str, Any]] = []
        self.asked: list[dict[str, Any]] = []

    def get_table(self, **given: Any) -> dict[str, Any]:
        self.asked.append(given)
        return {"Table": self.tables[given["Name"]]}

    def get_paginator(self, operation: str) -> Any:
        assert operation == "get_partitions"
        return self

    def paginate(self, **given: Any) -> Iterator[dict[str, Any]]:
        self.asked.append(given)
        for start in range(0, len(self.partitions), 2):
            yield {"Partitions": self.partitions[start : start + 2]}

    @property
    def catalog(self) -> GlueCatalog:
        return GlueCatalog(SimpleNamespace(glue=self))
