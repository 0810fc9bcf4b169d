"""An entry of Glue's Data Catalog: its format, columns and place, or why it cannot be read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sparklet.connectors.data_catalog.conditions import Columns
from sparklet.job.errors import TableError

DELIMITED, CSV = "delimited text", "csv"
OF_THEIR_OWN = ("delta", "iceberg")
FORMATS = {  # by the classes of input format and SerDe
    "MapredParquetInputFormat, ParquetHiveSerDe": "parquet",
    "OrcInputFormat, OrcSerde": "orc",
    "TextInputFormat, JsonSerDe": "json",
    "TextInputFormat, LazySimpleSerDe": DELIMITED,
    "TextInputFormat, OpenCSVSerde": CSV,
}
_HIVE, _TEXT = "org.apache.hadoop.hive.ql.io", "org.apache.hadoop.mapred.TextInputFormat"
_OF_PARQUET = f"{_HIVE}.parquet.MapredParquet"
MADE = {  # storage of new tables: input format, output format, SerDe
    "json": (_TEXT, f"{_HIVE}.HiveIgnoreKeyTextOutputFormat", "org.openx.data.jsonserde.JsonSerDe"),
    "orc": (f"{_HIVE}.orc.OrcInputFormat", f"{_HIVE}.orc.OrcOutputFormat", f"{_HIVE}.orc.OrcSerde"),
    "parquet": (f"{_OF_PARQUET}InputFormat", f"{_OF_PARQUET}OutputFormat", f"{_HIVE}.parquet.serde.ParquetHiveSerDe"),
}
KEPT = ("Name", "Description", "Owner", "Retention", "StorageDescriptor", "PartitionKeys", "Parameters", "TableType")
HEADER = "skip.header.line.count"
OF_READERS = {
    "orc": {"orc.column.index.access"},
    "json": {"ignore.malformed.json"},
    DELIMITED: {"field.delim", "serialization.format", "escape.delim", "serialization.null.format", HEADER},
    CSV: {"separatorChar", "quoteChar", "escapeChar", HEADER},
}
"""Properties that the readers of a format know."""
CHANGING = (
    *("projection.enabled", "transactional", "has_encrypted_data", "mapping.", "dots.in.keys", "timestamp.formats"),
    *("parquet.column.index.access", "serialization.last.column", "serialization.encoding", "line.delim", HEADER),
)
"""Beginnings of properties that change the rows of a table, unless their values are ``HARMLESS``."""
HARMLESS = ("", "0", "1", "false", "utf-8", "utf8", "\n")
NOT_IN_TEXT = re.compile("array|map|struct|uniontype|binary")


@dataclass(frozen=True)
class Entry:
    """A table of the catalog, as readers need it; it is stored with a run as JSON."""

    name: str
    format: str
    location: str  # of Iceberg its metadata file
    columns: Columns = ()  # without the partitions'; none of ``OF_THEIR_OWN``
    keys: Columns = ()  # the partitions'
    properties: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_header(self) -> bool:
        """Whether each file of text begins with a line that is no row."""
        return self.properties.get(HEADER) == "1"

    @property
    def split(self) -> str:
        """How large objects may be cut, as the option says it; "": not at all."""
        of_text = "csv" if self.has_header else "lines"
        return {"parquet": "parquet", "json": "lines", DELIMITED: of_text, CSV: of_text}.get(self.format, "")


def entry_of(name: str, table: Mapping[str, Any]) -> Entry:
    """Glue's answer as an entry; TableError if its rows could not be told, or not rightly."""
    stored, parameters = table.get("StorageDescriptor") or {}, table.get("Parameters") or {}
    serde = stored.get("SerdeInfo") or {}
    properties = {**parameters, **(serde.get("Parameters") or {})}
    location = stored.get("Location") or ""
    kind = properties.get("table_type", properties.get("spark.sql.sources.provider", "")).lower()
    # The readers of these formats take columns and files from the format's own metadata, whatever else is here.
    if kind in OF_THEIR_OWN and not table.get("TargetTable"):
        return Entry(name, kind, properties.get("metadata_location" if kind == "iceberg" else "path", location))
    # By the last part of the name: OpenX and Hive have a JsonSerDe each, which are read alike.
    classes = [
        str(java_class).rpartition(".")[2]
        for java_class in (stored.get("InputFormat"), serde.get("SerializationLibrary"))
    ]
    format_ = FORMATS.get(", ".join(classes), "")
    columns, keys = (
        [(column["Name"].lower(), column.get("Type", "string").lower()) for column in definitions or ()]
        for definitions in (stored.get("Columns"), table.get("PartitionKeys"))
    )
    changing = [
        f"{key}={value}"
        for key, value in properties.items()
        if key.startswith(CHANGING) and value.lower() not in HARMLESS
    ]
    unfit = [column for column, type_ in columns if format_ in (DELIMITED, CSV) and NOT_IN_TEXT.match(type_)]
    reasons = {
        "it is a link to another table": table.get("TargetTable"),
        "it is a view": "VIEW" in table.get("TableType", ""),
        "it is bucketed": stored.get("BucketColumns"),
        f"its property is {''.join(changing[:1])}": changing,
        f"its input format and SerDe are {' and '.join(classes)}": not format_,
        f"its column {''.join(unfit[:1])} is nested or binary, in text": unfit,
    }
    if why := next((reason for reason, holds in reasons.items() if holds), ""):
        raise TableError(f"the table {name} is not read here: {why}; name its folders as the input, or use spark.read")
    # Partitions are compared with their table by these alone: other properties may differ without harm.
    of_reader = {key: properties[key] for key in sorted(OF_READERS.get(format_, set()) & properties.keys())}
    return Entry(name, format_, location, columns, keys, of_reader)
