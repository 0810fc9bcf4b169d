"""``DataSink``: a folder that frames are written to, and the catalog's table of this folder."""

from __future__ import annotations

from typing import Any

from . import lack_error, refuse_import
from .dynamicframe import DynamicFrame

BEHAVIORS = ("UPDATE_IN_DATABASE", "LOG")
__getattr__ = refuse_import
__all__ = ["DataSink"]


class DataSink:
    """The result of ``GlueContext.getSink``; ``connection_type`` is s3 or file, options are the options of a write."""

    def __init__(self, glue_ctx: Any, connection_type: str, format: Any = None, **options: Any) -> None:
        if connection_type not in ("s3", "file"):
            raise lack_error(f"getSink with connection_type {connection_type!r}", "write_dynamic_frame.from_options")
        self._glue, self._kind, self._format = glue_ctx, connection_type, {"format": format} if format else {}
        self._updates = str(options.pop("enableUpdateCatalog", False)).lower() == "true"
        self._behavior = options.pop("updateBehavior", None) or "UPDATE_IN_DATABASE"
        if self._behavior not in BEHAVIORS:
            raise lack_error(f"updateBehavior {self._behavior!r}", " or ".join(BEHAVIORS))
        self._options, self._table = options, ""

    def __getattr__(self, name: str) -> Any:
        raise lack_error(f"DataSink.{name}", "setCatalogInfo, setFormat and writeFrame")

    def setFormat(self, format: str, **options: Any) -> None:
        """Set the format of the files, and its options."""
        self._format = {"format": format, "format_options": options}

    def setCatalogInfo(self, catalogDatabase: str, catalogTableName: str, catalogId: str | None = None) -> None:
        """Set the table that is created, or gets new columns and partitions, if ``enableUpdateCatalog`` is true."""
        if catalogId:
            raise lack_error("option 'catalogId'")
        self._table = f"{catalogDatabase}.{catalogTableName}"

    def writeFrame(self, frame: DynamicFrame, info: str = "") -> DynamicFrame:
        """Write the rows, and update the table. Each shard does so by itself; the shards' order does not matter."""
        table = self._table if self._updates else ""
        columns_too = self._behavior == "UPDATE_IN_DATABASE"
        self._glue.write_cataloged(frame, table, columns_too, self._kind, self._options, **self._format)
        return frame

    write = writeFrame
