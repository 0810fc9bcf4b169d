"""``DataSink``: a folder that frames are written to, and a table of the catalog that shows it."""

from __future__ import annotations

from typing import Any

from . import lacking, missing
from .dynamicframe import DynamicFrame

BEHAVIORS = ("UPDATE_IN_DATABASE", "LOG")
__getattr__ = missing
__all__ = ["DataSink"]


class DataSink:
    """What ``GlueContext.getSink`` returns; ``connection_type`` is S3's, options are those of a write."""

    def __init__(self, glue_ctx: Any, connection_type: str, format: Any = None, **options: Any) -> None:
        if connection_type not in ("s3", "file"):
            raise lacking(f"getSink with connection_type {connection_type!r}", "write_dynamic_frame.from_options")
        self._glue, self._kind, self._format = glue_ctx, connection_type, {"format": format} if format else {}
        self._updates = str(options.pop("enableUpdateCatalog", False)).lower() == "true"
        self._behavior = options.pop("updateBehavior", None) or "UPDATE_IN_DATABASE"
        if self._behavior not in BEHAVIORS:
            raise lacking(f"updateBehavior {self._behavior!r}", " or ".join(BEHAVIORS))
        self._options, self._table = options, ""

    def __getattr__(self, name: str) -> Any:
        raise lacking(f"DataSink.{name}", "setCatalogInfo, setFormat and writeFrame")

    def setFormat(self, format: str, **options: Any) -> None:
        """The format of the files, and its options."""
        self._format = {"format": format, "format_options": options}

    def setCatalogInfo(self, catalogDatabase: str, catalogTableName: str, catalogId: str | None = None) -> None:
        """The table that is made, or gets new columns and partitions, if ``enableUpdateCatalog`` is true."""
        if catalogId:
            raise lacking("option 'catalogId'")
        self._table = f"{catalogDatabase}.{catalogTableName}"

    def writeFrame(self, frame: DynamicFrame, info: str = "") -> DynamicFrame:
        """Write the rows; each shard changes the catalog by itself, and the order of the shards does not matter."""
        table = self._table if self._updates else ""
        columns_too = self._behavior == "UPDATE_IN_DATABASE"
        self._glue.write_cataloged(frame, table, columns_too, self._kind, self._options, **self._format)
        return frame

    write = writeFrame
