"""A table's entry in Glue's Data Catalog: its format, columns and location, or why the table cannot be read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sparklet.connectors.data_catalog.conditions import Columns
from sparklet.job.errors import TableError

DELIMITED, CSV = "delimited text", "csv"
SELF_DESCRIBING = ("delta", "iceberg")  # formats whose own metadata has the columns and files
FORMATS = {  # by the names of the Java classes of input format and SerDe
    "MapredParquetInputFormat, ParquetHiveSerDe": "parquet",
    "OrcInputFormat, OrcSerde": "orc",
    "TextInputFormat, JsonSerDe": "json",
    "TextInputFormat, LazySimpleSerDe": DELIMITED,
    "TextInputFormat, OpenCSVSerde": CSV,
}
_HIVE, _TEXT = "org.apache.hadoop.hive.ql.io", "org.apache.hadoop.mapred.TextInputFormat"
_PARQUET = f"{_HIVE}.parquet.MapredParquet"
NEW_TABLES = {  # the Java classes of new tables: input format, output format, SerDe
    "json": (_TEXT, f"{_HIVE}.HiveIgnoreKeyTextOutputFormat", "org.openx.data.jsonserde.JsonSerDe"),
    "orc": (f"{_HIVE}.orc.OrcInputFormat", f"{_HIVE}.orc.OrcOutputFormat", f"{_HIVE}.orc.OrcSerde"),
    "parquet": (f"{_PARQUET}InputFormat", f"{_PARQUET}OutputFormat", f"{_HIVE}.parquet.serde.ParquetHiveSerDe"),
}
HEADER = "skip.header.line.count"
READER_PROPERTIES = {
    "orc": {"orc.column.index.access"},
    "json": {"ignore.malformed.json"},
    DELIMITED: {"field.delim", "serialization.format", "escape.delim", "serialization.null.format", HEADER},
    CSV: {"separatorChar", "quoteChar", "escapeChar", HEADER},
}
"""The properties that the readers here know, by format."""
CHANGING = (
    *("projection.enabled", "transactional", "has_encrypted_data", "mapping.", "dots.in.keys", "timestamp.formats"),
    *("parquet.column.index.access", "serialization.last.column", "serialization.encoding", "line.delim", HEADER),
)
"""Properties whose names begin like this change a table's rows, unless their values are ``HARMLESS``."""
HARMLESS = ("", "0", "1", "false", "utf-8", "utf8", "\n")
NOT_IN_TEXT = re.compile("array|map|struct|uniontype|binary")


@dataclass(frozen=True)
class Entry:
    """A table of the catalog, as readers need it; it is stored with a run as JSON."""

    name: str
    format: str
    location: str  # for Iceberg the table's metadata file
    columns: Columns = ()  # without the partition keys; empty for ``SELF_DESCRIBING`` formats
    keys: Columns = ()  # the partition keys
    properties: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_header(self) -> bool:
        """Whether the first line of each text file is not a row."""
        return self.properties.get(HEADER) == "1"

    @property
    def split(self) -> str:
        """The value of a run's option ``split`` by which large objects can be cut; "" if they cannot."""
        text_split = "csv" if self.has_header else "lines"
        return {"parquet": "parquet", "json": "lines", DELIMITED: text_split, CSV: text_split}.get(self.format, "")


def entry_of(name: str, table: Mapping[str, Any]) -> Entry:
    """Return Glue's description of a table as an entry; TableError if the table's rows could not be read correctly."""
    stored, parameters = table.get("StorageDescriptor") or {}, table.get("Parameters") or {}
    serde = stored.get("SerdeInfo") or {}
    properties = {**parameters, **(serde.get("Parameters") or {})}
    location = stored.get("Location") or ""
    provider = properties.get("table_type", properties.get("spark.sql.sources.provider", "")).lower()
    # The readers of these formats take columns and files from the format's own metadata, whatever the entry has.
    if provider in SELF_DESCRIBING and not table.get("TargetTable"):
        location_key = "metadata_location" if provider == "iceberg" else "path"
        return Entry(name, provider, properties.get(location_key, location))
    # Only the last part of a class's name counts: OpenX and Hive have a JsonSerDe each, which are read alike.
    class_names = (stored.get("InputFormat"), serde.get("SerializationLibrary"))
    classes = [str(class_name).rpartition(".")[2] for class_name in class_names]
    format_ = FORMATS.get(", ".join(classes), "")
    columns, keys = (
        [(column["Name"].lower(), column.get("Type", "string").lower()) for column in definitions or ()]
        for definitions in (stored.get("Columns"), table.get("PartitionKeys"))
    )
    changing_properties = [
        f"{key}={value}"
        for key, value in properties.items()
        if key.startswith(CHANGING) and value.lower() not in HARMLESS
    ]
    unfit_columns = [column for column, type_ in columns if format_ in (DELIMITED, CSV) and NOT_IN_TEXT.match(type_)]
    reasons = {
        "it is a link to another table": table.get("TargetTable"),
        "it is a view": "VIEW" in table.get("TableType", ""),
        "it is bucketed": stored.get("BucketColumns"),
        f"its property is {''.join(changing_properties[:1])}": changing_properties,
        f"its input format and SerDe are {' and '.join(classes)}": not format_,
        f"its column {''.join(unfit_columns[:1])} is nested or binary, in text": unfit_columns,
    }
    if why := next((reason for reason, holds in reasons.items() if holds), ""):
        raise TableError(f"the table {name} is not read here: {why}; name its folders as the input, or use spark.read")
    # Only these properties of a partition must be the same as its table's: others may differ without harm.
    reader_keys = sorted(READER_PROPERTIES.get(format_, set()) & properties.keys())
    return Entry(name, format_, location, columns, keys, {key: properties[key] for key in reader_keys})
