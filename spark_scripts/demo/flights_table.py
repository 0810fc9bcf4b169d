"""The demo's table: its name and catalog, and its files as the Python libraries of its format read them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ICEBERG_NAME = "demo.flights"


@dataclass(frozen=True)
class Snapshots:
    """The number of a table's snapshots (versions, commits), and the Parquet files of the last snapshot."""

    count: int
    files: Sequence[str]


@dataclass(frozen=True)
class FlightsTable:
    """A table below a local folder; its format is iceberg, delta or hudi."""

    format: str
    folder: Path

    @property
    def name(self) -> str:
        """The table's name for ``--table``."""
        return f"iceberg:{ICEBERG_NAME}" if self.format == "iceberg" else f"{self.format}:{self.folder / 'flights'}"

    @property
    def catalog(self) -> Mapping[str, str]:
        """The properties of Iceberg's catalog for pyiceberg: a SQLite file beside the warehouse."""
        uri = f"sqlite:///{self.folder / 'catalog.sqlite'}"
        return {"type": "sql", "uri": uri, "warehouse": f"file://{self.folder}/warehouse"}

    def clear(self) -> None:
        """Delete the table of an earlier demo."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def snapshots(self) -> Snapshots:
        """The snapshots that the table has now."""
        if self.format == "delta":
            from deltalake import DeltaTable

            delta = DeltaTable(self.folder / "flights")
            return Snapshots(delta.version() + 1, [unquote(path) for path in delta.file_uris()])
        if self.format == "iceberg":
            from pyiceberg.catalog import load_catalog

            iceberg = load_catalog("iceberg", **self.catalog).load_table(ICEBERG_NAME)
            files = [task.file.file_path.removeprefix("file://") for task in iceberg.scan().plan_files()]
            return Snapshots(len(iceberg.metadata.snapshots), files)
        root = self.folder / "flights"
        files = [str(path) for path in sorted(root.rglob("*.parquet")) if ".hoodie" not in path.parts]
        commits = [
            path for path in root.glob(".hoodie/timeline/*.commit") if b"sparklet.commit-id" in path.read_bytes()
        ]
        return Snapshots(len(commits), files)
