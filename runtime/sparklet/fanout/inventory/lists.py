"""Lists of objects: fetched in the version that the run was entered with, read a row at a time, from any row on."""

import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from sparklet.entries import Entry, RowError, entry_of
from sparklet.errors import ObjectChangedError, ObjectNotFoundError, PlanError
from sparklet.fanout.inventory.found import DELETE_MARKER, MISSING, NOT_LATEST, Candidate
from sparklet.fanout.inventory.items import item_of, item_rows
from sparklet.fanout.inventory.manifests import data_files
from sparklet.fanout.inventory.rows import Row, text_rows
from sparklet.fanout.inventory.tables import table_rows
from sparklet.fanout.scratch import scratch_error
from sparklet.model import InputObject, ListSource, Position, RunOptions
from sparklet.ports import ObjectInfo, ObjectStore
from sparklet.s3_uri import split_uri

FORMATS = ("lines", "csv", "json", "jsonl", "parquet", "s3-inventory")
HEADS_AT_ONCE = 256  # entries looked at together, so that HEADs go out in parallel

Place = tuple[int, int]  # data file, row
T = TypeVar("T")


class ListReader:
    """One list of a run's input.

    Parameters
    ----------
    source
        The list; with an ``etag`` it is read in that version only.
    store
        Where the list lies, and an inventory's data files.
    body
        The list itself, if it lies nowhere yet.
    """

    def __init__(self, source: ListSource, store: ObjectStore, body: bytes | None = None) -> None:
        self._source, self._store, self._body = source, store, body
        self.buckets: set[str] = set()
        """Buckets of the objects that were read until now."""

    def name(self) -> str:
        """What the list is called in messages."""
        return self._source.uri

    @property
    def holds_items(self) -> bool:
        """Whether its rows are items, not names of objects."""
        return self._source.items

    def read_all(self) -> None:
        """Read the list to its end, so that what is wrong with a row is known; PlanError says what."""
        deque(self.items() if self.holds_items else self.entries(), maxlen=0)

    def entries(self, after: Place = (0, 0)) -> Iterator[tuple[Place, Entry]]:
        """The objects that the list names behind a place.

        Raises
        ------
        PlanError
            Naming list, row and remedy, if a row names no object; or if the list was changed.
        """
        column = self._source.path if self._source.format in ("csv", "parquet") else ""
        for place, entry in self._each(after, lambda value: entry_of(value, column)):
            self.buckets.add(split_uri(entry.uri)[0])
            yield place, entry

    def items(self, after: Place = (0, 0)) -> Iterator[tuple[Place, InputObject]]:
        """The items of the list behind a place; PlanError as for ``entries``, if a row is no item."""
        return self._each(after, item_of)

    def _each(self, after: Place, parse: Callable[[Any], T]) -> Iterator[tuple[Place, T]]:
        source = self._source
        with tempfile.TemporaryDirectory(prefix="sparklet-list-") as folder:
            path = Path(folder) / "list"
            self._fetch(path)
            if source.format != "s3-inventory":
                yield from self._parsed(source.uri, 0, self._rows(path, after[1]), after, parse)
                return
            files = data_files(self._store, source.uri, path.read_bytes())
            for number, each in enumerate(files):
                if number >= after[0]:
                    data = Path(folder) / "data"
                    each.download(self._store, data)
                    rows = each.rows(data, after[1] if number == after[0] else 0)
                    yield from self._parsed(each.uri, number, rows, after, parse)
                    data.unlink()

    def _fetch(self, path: Path) -> None:
        source = self._source
        if self._body is not None:
            try:
                path.write_bytes(self._body)
            except OSError as error:
                raise scratch_error(f"the list {source.uri}", error) from error
            return
        try:
            self._store.download(source.uri, path, source.etag)
        except ObjectNotFoundError as error:
            raise PlanError(f"the list {source.uri} is not there; check its spelling") from error
        except ObjectChangedError as error:
            raise PlanError(
                f"the list {source.uri} was changed since the run was entered, so its plan cannot go on; "
                "put the old list back, or start another run"
            ) from error

    def _rows(self, path: Path, after_row: int) -> Iterator[Row]:
        form, address, zipped = self._source.format, self._source.path, self._source.uri.endswith(".gz")
        if self.holds_items and form in ("csv", "parquet"):
            return item_rows(path, form, address, after_row, zipped=zipped)
        if form == "parquet":
            return table_rows(path, form, address, after_row)
        return text_rows(path, form, address, zipped=zipped)

    def _parsed(
        self, name: str, number: int, rows: Iterator[Row], after: Place, parse: Callable[[Any], T]
    ) -> Iterator[tuple[Place, T]]:
        row = 0
        try:
            for index, (row, value) in enumerate(rows):
                place = (number, index + 1 if self._source.format in ("json", "jsonl") else row)
                if place <= after:
                    continue
                yield place, parse(value)
        except RowError as error:
            row = error.row or row
            raise PlanError(f"the list {name}{f', row {row}' if row else ''}: {error}") from error


class Listed:
    """The rows of a list as candidates: what the list does not say of objects is asked for, several at a time."""

    def __init__(self, reader: ListReader, store: ObjectStore, options: RunOptions) -> None:
        self._reader, self._store, self._options = reader, store, options

    def relative(self, uri: str) -> str:
        """What patterns are compared with: the whole key."""
        return split_uri(uri)[1]

    def candidates(self, at: Position) -> Iterator[Candidate]:
        """All objects, or items, behind a position; where slices are left to plan, their object first."""
        file, row = map(int, (at.after or "0:0").split(":"))
        if self._reader.holds_items:
            for place, item in self._reader.items((file, row)):
                yield Candidate(f"{place[0]}:{place[1]}", "", None, item=item)
            return
        entries = self._reader.entries((file, row - 1) if at.slices else (file, row))
        while batch := list(islice(entries, HEADS_AT_ONCE)):
            unknown = [(entry.uri, self._version(entry)) for _, entry in batch if self._must_ask(entry)]
            answers = self._store.head_all(unknown)
            for (file, row), entry in batch:
                info = next(answers) if self._must_ask(entry) else self._said(entry)
                after = f"{file}:{row}"
                resumed = bool(at.slices) and after == at.after
                yield Candidate(after, entry.uri, info, self._reason(entry, info), resumed)

    def _reason(self, entry: Entry, info: ObjectInfo | None) -> str:
        return self._unwanted(entry) or ("" if info else MISSING)

    def _unwanted(self, entry: Entry) -> str:
        """Why an entry is left out by what the list says of it."""
        if entry.deleted:
            return DELETE_MARKER
        return NOT_LATEST if entry.latest is False and not self._options.all_versions else ""

    def _must_ask(self, entry: Entry) -> bool:
        if self._unwanted(entry):
            return False
        unsaid = entry.size_bytes is None or entry.archived  # it may have been restored
        untold = (self._options.incremental and entry.etag is None) or (
            self._options.modified_since_s > 0 and entry.modified_s is None
        )
        return unsaid or untold

    def _version(self, entry: Entry) -> str:
        """The version to read: an inventory's latest one is read as whatever is current, as a listing's is."""
        return "" if entry.latest and not self._options.all_versions else entry.version_id

    def _said(self, entry: Entry) -> ObjectInfo:
        return ObjectInfo(
            entry.uri, entry.size_bytes or 0, entry.etag or "", entry.modified_s or 0.0, self._version(entry)
        )


def list_format(name: str) -> str:
    """The format of a list by its name.

    Raises
    ------
    PlanError
        If the name does not say.
    """
    bare = name.rpartition("/")[2].lower().removesuffix(".gz")
    if bare == "manifest.json":
        return "s3-inventory"
    suffixes = {".csv": "csv", ".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
    suffixes |= {".txt": "lines", ".list": "lines", ".lst": "lines"}
    for suffix, form in suffixes.items():
        if bare.endswith(suffix):
            return form
    raise PlanError(f"the name of the list {name} does not say its format; say it: --list-format {' | '.join(FORMATS)}")
