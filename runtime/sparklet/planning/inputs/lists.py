"""Reads lists of objects (also S3 Inventories) and lists of items, row by row, from any row on."""

import hashlib
import json
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, time
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote_plus

from sparklet.errors import ObjectChangedError, ObjectNotFoundError, PlanError
from sparklet.model import SCHEME, InputObject, ListSource, Position, RunOptions, split_uri
from sparklet.planning.inputs.list_rows import Entry, Row, RowError, csv_rows, entry_of, table_rows, text_rows
from sparklet.planning.inputs.selection import Candidate, Reason
from sparklet.ports import ObjectInfo, ObjectStore
from sparklet.ports.deployment import scratch

FORMATS = ("lines", "csv", "json", "jsonl", "parquet", "s3-inventory")
FORMAT_OF_SUFFIX = {".csv": "csv", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
FORMAT_OF_SUFFIX |= dict.fromkeys((".txt", ".list", ".lst"), "lines")
INVENTORY_FORMATS = ("CSV", "ORC", "Parquet")
HEADS_AT_ONCE = 256  # rows in one batch of parallel HEAD requests
MAX_ITEM_BYTES = 64 * 1024  # as JSON
MAX_ITEM_DEPTH = 32  # of arrays and objects within each other

Place = tuple[int, int]  # data file, row
T = TypeVar("T")


def list_format(name: str) -> str:
    """The format of a list by its name; PlanError if the name does not show it."""
    bare = name.rpartition("/")[2].lower().removesuffix(".gz")
    if bare == "manifest.json":
        return "s3-inventory"
    if form := FORMAT_OF_SUFFIX.get(Path(bare).suffix):
        return form
    raise PlanError(f"the name of the list {name} does not show its format: give --list-format {' | '.join(FORMATS)}")


# --- items ---


def item_of(value: Any) -> InputObject:
    """A row's value as an item; dates, times and decimals become texts. RowError if JSON cannot hold the value."""
    try:
        item = InputObject.of_item(_json_value(value, MAX_ITEM_DEPTH))
    except ValueError as error:  # NaN, infinity, half of a surrogate pair
        raise RowError(f"the item cannot be written as JSON in UTF-8: {error}") from error
    if item.size_bytes > MAX_ITEM_BYTES:
        raise RowError(
            f"the item has {item.size_bytes:,} bytes as JSON, more than {MAX_ITEM_BYTES:,}: put large values into S3 "
            "and list their addresses"
        )
    return item


def _json_value(value: Any, levels: int) -> Any:
    if isinstance(value, str | int | float | None):
        return value
    if not levels:
        raise RowError(f"the item is nested deeper than {MAX_ITEM_DEPTH} arrays and objects")
    if isinstance(value, list | tuple):
        return [_json_value(member, levels - 1) for member in value]
    if isinstance(value, dict):
        return {name: _json_value(member, levels - 1) for name, member in value.items()}
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    raise RowError(f"the item holds a {type(value).__name__}, which JSON cannot; leave that column out")


# --- S3 Inventory: its manifest and data files ---


@dataclass(frozen=True, slots=True)
class DataFile:
    """A data file of an inventory."""

    uri: str
    md5: str
    form: str  # CSV | ORC | Parquet
    columns: tuple[str, ...]  # of CSV, which has no header

    def download(self, store: ObjectStore, path: Path) -> None:
        """Fetch the file; PlanError if it does not exist, or has not the checksum of the manifest."""
        try:
            store.download(self.uri, path)
        except ObjectNotFoundError as error:
            raise PlanError(f"the data file {self.uri} does not exist any more; give a newer manifest") from error
        with path.open("rb") as file:
            # S3 chose MD5 for its manifests. A Python for FIPS computes MD5 only if it is not used for security.
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if md5 != self.md5:
            raise PlanError(
                f"the inventory's data file {self.uri} has the MD5 {md5}, its manifest has {self.md5}: "
                "it was changed or is incomplete; give another manifest"
            )

    def rows(self, path: Path, after_row: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """The file's rows, each with its number; of Parquet and ORC only batches that end after ``after_row``."""
        if self.form != "CSV":
            yield from table_rows(path, self.form.lower(), after_row=after_row)
            return
        # In CSV S3 encodes keys like a query, so that + is a space; in ORC and Parquet they are not encoded.
        key = next(name for name in self.columns if name.lower() == "key")
        for row, values in csv_rows(path, self.columns, zipped=self.uri.endswith(".gz")):
            yield row, {**values, key: _decoded_key(values[key], row)}


def _decoded_key(key: str, row: int) -> str:
    try:
        return unquote_plus(key, errors="strict")
    except UnicodeDecodeError as error:
        raise RowError(f"the key {key!r} is not URL-encoded UTF-8", row) from error


def data_files(store: ObjectStore, uri: str, body: bytes) -> tuple[DataFile, ...]:
    """The data files of a manifest; PlanError if the manifest cannot be read or does not have its checksum."""
    _verify(store, uri, body)
    try:
        manifest = json.loads(body)
        form, schema = str(manifest["fileFormat"]), str(manifest["fileSchema"])
        bucket = str(manifest["destinationBucket"]).removeprefix("arn:").rpartition(":")[2]
        files = [(str(file["key"]), str(file["MD5checksum"])) for file in manifest["files"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise PlanError(
            f"{uri} is not a manifest of S3 Inventory ({type(error).__name__}: {error}); name its manifest.json"
        ) from error
    if form not in INVENTORY_FORMATS:
        raise PlanError(f"the inventory {uri} is in {form}; Sparklet reads {', '.join(INVENTORY_FORMATS)}")
    columns = tuple(name.strip() for name in schema.split(",")) if form == "CSV" else ()
    if form == "CSV" and not {"bucket", "key"} <= {name.lower() for name in columns}:
        raise PlanError(f"the inventory {uri} has no columns Bucket and Key; its fileSchema is {schema!r}")
    return tuple(DataFile(f"{SCHEME}{bucket}/{key}", md5, form, columns) for key, md5 in files)


def _verify(store: ObjectStore, uri: str, body: bytes) -> None:
    checksum_uri = f"{uri.removesuffix('.json')}.checksum"
    try:
        expected = store.get(checksum_uri).decode("ascii", "replace").strip()
    except ObjectNotFoundError as error:
        raise PlanError(
            f"the inventory {uri} has no {checksum_uri.rpartition('/')[2]} next to it: it is incomplete, or was copied "
            "without it; S3 writes it last"
        ) from error
    md5 = hashlib.md5(body, usedforsecurity=False).hexdigest()
    if expected.lower() != md5:
        raise PlanError(
            f"the inventory {uri} has the MD5 {md5}, its checksum file has {expected!r}: it was changed; give another"
        )


# --- lists of all formats ---


class ListReader:
    """One list of a run's input, in the version of its ``etag``; ``body`` is a list that is not stored yet."""

    def __init__(self, source: ListSource, store: ObjectStore, body: bytes | None = None) -> None:
        self.source, self.body, self._store = source, body, store
        self.buckets: set[str] = set()
        """The buckets of the objects that were read so far."""

    def read_all(self) -> None:
        """Read the list to its end; PlanError if a row is wrong."""
        deque(self.items() if self.source.items else self.entries(), maxlen=0)

    def entries(self, after: Place = (0, 0)) -> Iterator[tuple[Place, Entry]]:
        """The objects that the list names after a place; PlanError with list, row and remedy if a row is wrong."""
        for place, entry in self._each_row(after, self._entry):
            self.buckets.add(split_uri(entry.uri)[0])
            yield place, entry

    def _entry(self, value: Any) -> Entry:
        entry = entry_of(value)
        return replace(entry, partition=tuple(value["partition"])) if self.source.table else entry

    def items(self, after: Place = (0, 0)) -> Iterator[tuple[Place, InputObject]]:
        """The items of the list after a place; PlanError as for ``entries``."""
        return self._each_row(after, item_of)

    def _each_row(self, after: Place, parse: Callable[[Any], T]) -> Iterator[tuple[Place, T]]:
        source, (after_file, after_row) = self.source, after
        with tempfile.TemporaryDirectory(prefix="sparklet-list-") as folder:
            path = Path(folder) / "list"
            self._fetch(path)
            if source.format != "s3-inventory":
                yield from self._parse_rows(source.uri, 0, self._rows(path, after_row), after, parse)
                return
            files = data_files(self._store, source.uri, path.read_bytes())
            for number, file in enumerate(files):
                if number >= after_file:
                    # One data file at a time: together those of a large inventory might not fit into /tmp.
                    data = Path(folder) / "data"
                    file.download(self._store, data)
                    rows = file.rows(data, after_row if number == after_file else 0)
                    yield from self._parse_rows(file.uri, number, rows, after, parse)
                    data.unlink()

    def _fetch(self, path: Path) -> None:
        source = self.source
        if self.body is not None:
            with scratch(f"the list {source.uri}"):
                path.write_bytes(self.body)
            return
        try:
            self._store.download(source.uri, path, source.etag)
        except ObjectNotFoundError as error:
            raise PlanError(f"the list {source.uri} is not there; check its spelling") from error
        except ObjectChangedError as error:
            raise PlanError(
                f"the list {source.uri} was changed since the run was created, so its plan cannot continue; "
                "put the old list back, or start another run"
            ) from error

    def _rows(self, path: Path, after_row: int) -> Iterator[Row]:
        form, zipped = self.source.format, self.source.uri.endswith(".gz")
        if form == "parquet":
            return table_rows(path, form, after_row, all_columns=self.source.items)
        return csv_rows(path, None, zipped) if form == "csv" else text_rows(path, form, zipped)

    def _parse_rows(
        self, name: str, number: int, rows: Iterator[Row], after: Place, parse: Callable[[Any], T]
    ) -> Iterator[tuple[Place, T]]:
        row = 0
        try:
            for row, value in rows:
                place = (number, row)
                # Readers begin at the start of a file or batch, so rows that are in shards already come again.
                if place <= after:
                    continue
                yield place, parse(value)
        except RowError as error:
            row = error.row or row
            raise PlanError(f"the list {name}{f', row {row}' if row else ''}: {error}") from error


class Listed:
    """The rows of a list as candidates; HEAD requests, many at a time, add what the list omits of an object."""

    def __init__(self, reader: ListReader, store: ObjectStore, options: RunOptions) -> None:
        self._reader, self._store, self._options = reader, store, options

    def candidates(self, position: Position) -> Iterator[Candidate]:
        """All objects, or items, after a position; first an object some of whose slices remain to plan."""
        file, row = map(int, (position.after or "0:0").split(":"))
        if self._reader.source.items:
            for (item_file, item_row), item in self._reader.items((file, row)):
                yield Candidate(f"{item_file}:{item_row}", "", None, item=item)
            return
        # The row is read once more if not all slices of its object are planned.
        entries = self._reader.entries((file, row - 1) if position.slices else (file, row))
        while batch := list(islice(entries, HEADS_AT_ONCE)):
            incomplete = [(entry.uri, self._version(entry)) for _, entry in batch if self._needs_head(entry)]
            heads = self._store.head_all(incomplete)
            for (file, row), entry in batch:
                # `head_all` returns them in the order of the addresses.
                info = next(heads) if self._needs_head(entry) else self._info_of(entry)
                after = f"{file}:{row}"
                resumed = bool(position.slices) and after == position.after
                reason = self._why_skipped(entry) or ("" if info else Reason.MISSING)
                yield Candidate(after, entry.uri, info, reason, resumed, partition=entry.partition)

    def _why_skipped(self, entry: Entry) -> str:
        if entry.deleted:
            return Reason.DELETE_MARKER
        return Reason.NOT_LATEST if entry.latest is False else ""

    def _needs_head(self, entry: Entry) -> bool:
        """Whether planning needs something of the object that the list omits."""
        if self._why_skipped(entry):
            return False
        return (
            entry.size_bytes is None
            or entry.archived  # it may have been restored since
            or (self._options.incremental and entry.etag is None)
            or (self._options.modified_since_s > 0 and entry.modified_s is None)
        )

    def _version(self, entry: Entry) -> str:
        """The version to read; "" (the current one) if an inventory calls it the latest."""
        return "" if entry.latest else entry.version_id

    def _info_of(self, entry: Entry) -> ObjectInfo:
        version_id, modified_s = self._version(entry), entry.modified_s or 0.0
        return ObjectInfo(entry.uri, entry.size_bytes or 0, entry.etag or "", modified_s, version_id)
