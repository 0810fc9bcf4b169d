"""Entries of Glue's catalog: how they are read, and which are refused."""

from typing import Any

import pytest

from sparklet.connectors.data_catalog.entries import entry_of
from sparklet.job.errors import TableError
from tests.stand_ins.glue import table_input

PLACE = "s3://lake/sales/"


@pytest.mark.parametrize(
    ("form", "properties", "split"),
    [
        ("parquet", {}, "parquet"),
        ("orc", {}, ""),
        ("json", {}, "lines"),
        ("delimited", {}, "lines"),
        ("csv", {"skip.header.line.count": "1"}, "csv"),
    ],
)
def test_an_entry_has_a_format_columns_and_a_split(form: str, properties: dict[str, str], split: str) -> None:
    table = table_input("t", PLACE, "Id int;price decimal(9,2)", "day date", form, Parameters=properties)

    entry = entry_of("db.t", table)

    assert entry.columns == [("id", "int"), ("price", "decimal(9,2)")] and entry.keys == [("day", "date")]
    assert (entry.location, entry.split) == (PLACE, split)


@pytest.mark.parametrize(
    ("parameters", "serde", "format_", "place"),
    [
        ({"table_type": "ICEBERG", "metadata_location": "s3://m.json"}, {}, "iceberg", "s3://m.json"),
        ({"table_type": "DELTA"}, {}, "delta", PLACE),
        ({"spark.sql.sources.provider": "delta"}, {"path": "s3://lake/real"}, "delta", "s3://lake/real"),
    ],
)
def test_entries_of_table_formats_have_a_place(
    parameters: dict[str, str], serde: dict[str, str], format_: str, place: str
) -> None:
    entry = entry_of("db.t", table_input("t", PLACE, serde=serde, Parameters=parameters))

    assert (entry.format, entry.location) == (format_, place)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"form": "avro"}, "AvroSerDe"),
        ({"form": "symlink"}, "SymlinkTextInputFormat"),
        ({"form": "hudi"}, "HoodieParquetInputFormat"),
        ({"Parameters": {"projection.enabled": "true"}}, "projection.enabled=true"),
        ({"Parameters": {"transactional": "true"}}, "transactional=true"),
        ({"TableType": "VIRTUAL_VIEW"}, "view"),
        ({"TargetTable": {"DatabaseName": "other", "Name": "t"}}, "link"),
        ({"serde": {"parquet.column.index.access": "true"}}, "parquet.column.index.access"),
        ({"form": "json", "serde": {"mapping.ts": "timestamp"}}, "mapping.ts"),
        ({"form": "csv", "Parameters": {"skip.header.line.count": "2"}}, "skip.header.line.count=2"),
        ({"form": "delimited", "of": "id int;tags array<string>"}, "tags"),
        ({"StorageDescriptor": {**table_input("t", PLACE)["StorageDescriptor"], "BucketColumns": ["id"]}}, "bucketed"),
    ],
)
def test_an_entry_that_spark_would_misread_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(TableError) as refused:
        entry_of("db.t", table_input("t", PLACE, **changes))

    assert message in str(refused.value) and "db.t" in str(refused.value)
