"""S3 Inventory: a manifest, its checksum, and the data files that it names."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

from sparklet.entries import RowError
from sparklet.errors import ObjectNotFoundError, PlanError
from sparklet.fanout.inventory.rows import csv_rows
from sparklet.fanout.inventory.tables import table_rows
from sparklet.ports import ObjectStore
from sparklet.s3_uri import SCHEME

FORMATS = ("CSV", "ORC", "Parquet")


@dataclass(frozen=True, slots=True)
class DataFile:
    """A data file of an inventory."""

    uri: str
    md5: str
    form: str  # CSV | ORC | Parquet
    columns: tuple[str, ...]  # of CSV, which has no header

    def download(self, store: ObjectStore, path: Path) -> None:
        """Fetch it; PlanError if it is not the one that the manifest names."""
        try:
            store.download(self.uri, path)
        except ObjectNotFoundError as error:
            raise PlanError(
                f"the inventory's data file {self.uri} is not there any more; give a younger manifest"
            ) from error
        with path.open("rb") as file:
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if md5 != self.md5:
            raise PlanError(
                f"the inventory's data file {self.uri} has the MD5 {md5}, the manifest says {self.md5}: "
                "it was changed or is not whole; give another manifest"
            )

    def rows(self, path: Path, after_row: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """Its rows behind ``after_row``. Keys are URL-encoded in CSV, and only there."""
        if self.form != "CSV":
            yield from table_rows(path, self.form.lower(), after_row=after_row)
            return
        key = next(name for name in self.columns if name.lower() == "key")
        for row, values in csv_rows(path, self.columns, zipped=self.uri.endswith(".gz")):
            if row > after_row:
                yield row, {**values, key: _decoded(values[key], row)}


def _decoded(key: str, row: int) -> str:
    try:
        return unquote_plus(key, errors="strict")
    except UnicodeDecodeError as error:
        raise RowError(f"the key {key!r} is not URL-encoded UTF-8", row) from error


def data_files(store: ObjectStore, uri: str, body: bytes) -> tuple[DataFile, ...]:
    """The data files of a manifest, once its own checksum is verified.

    Raises
    ------
    PlanError
        If the manifest is none, is not whole, or names a format that S3 Inventory has not.
    """
    _verify(store, uri, body)
    try:
        manifest = json.loads(body)
        form, schema = str(manifest["fileFormat"]), str(manifest["fileSchema"])
        bucket = str(manifest["destinationBucket"]).removeprefix("arn:").rpartition(":")[2]
        files = [(str(each["key"]), str(each["MD5checksum"])) for each in manifest["files"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PlanError(
            f"{uri} is no manifest of S3 Inventory ({type(error).__name__}: {error}); name its manifest.json"
        ) from error
    if form not in FORMATS:
        raise PlanError(f"the inventory {uri} is in {form}; Sparklet reads {', '.join(FORMATS)}")
    columns = tuple(name.strip() for name in schema.split(",")) if form == "CSV" else ()
    if form == "CSV" and not {"bucket", "key"} <= {name.lower() for name in columns}:
        raise PlanError(f"the inventory {uri} has no columns Bucket and Key; its fileSchema is {schema!r}")
    return tuple(DataFile(f"{SCHEME}{bucket}/{key}", md5, form, columns) for key, md5 in files)


def _verify(store: ObjectStore, uri: str, body: bytes) -> None:
    beside = f"{uri.removesuffix('.json')}.checksum"
    try:
        wanted = store.get(beside).decode("ascii", "replace").strip()
    except ObjectNotFoundError as error:
        raise PlanError(
            f"the inventory {uri} has no {beside.rpartition('/')[2]} beside it, so it is not whole yet, or was copied "
            "without it; S3 writes it last"
        ) from error
    found = hashlib.md5(body, usedforsecurity=False).hexdigest()
    if not re.fullmatch(re.escape(found), wanted, re.IGNORECASE):
        raise PlanError(
            f"the inventory {uri} has the MD5 {found}, its checksum file says {wanted!r}: it was changed; give another"
        )
