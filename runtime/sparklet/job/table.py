"""The name of a table, and the folders where rows for it are staged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sparklet.job.errors import EventError

FORMATS = ("iceberg", "delta", "hudi", "parquet")
# Folders of staged files: DATA in a table, whose own they become; CHANGES in an output, where only a commit reads them.
DATA, CHANGES = "sparklet", "_changes"


@dataclass(frozen=True)
class Table:
    """A table's format, and its place: ``db.name`` in the catalog for Iceberg, else the URI of its folder."""

    format: str
    place: str

    @classmethod
    def parse(cls, name: str) -> Table:
        """Read ``iceberg:db.flights``, ``delta:s3://bucket/flights`` or ``hudi:/data/flights``; else EventError."""
        format_, _, place = name.partition(":")
        if format_ not in FORMATS or not place:
            raise EventError(f"{name!r} names no table: write FORMAT:PLACE, with the format {', '.join(FORMATS)}")
        if format_ == "iceberg":
            if "://" in place or "." not in place.strip("."):
                raise EventError(
                    f"{name!r} names no Iceberg table: write iceberg:DATABASE.TABLE, as the catalog knows it"
                )
            return cls(format_, place)
        if "://" not in place:
            place = f"file://{Path(place).absolute()}"  # as Hadoop writes it: nothing is escaped
        return cls(format_, place.rstrip("/"))

    def __str__(self) -> str:
        return f"{self.format}:{self.place}"
