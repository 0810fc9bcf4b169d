"""The rows of a list in any format (lines, CSV, JSON, JSON Lines, Parquet, ORC), and the objects that they name."""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO

from sparklet.errors import PlanError, SparkletError
from sparklet.model import SCHEME

MAX_JSON_BYTES = 64 * 1024 * 1024  # the whole document is in memory
BATCH_ROWS = 8192  # of Parquet or ORC

Row = tuple[int, Any]  # number, from 1 on, and the row: an address, a mapping of columns, or another value of JSON


def text_rows(file: Path, form: str, zipped: bool) -> Iterator[Row]:
    """The rows of a list in a text format, for CSV each as a list of cells; RowError if it is not in that format."""
    readers: dict[str, Callable[[TextIO], Iterator[Row]]] = {"lines": _lines, "csv": _cells, "json": _json}
    readers["jsonl"] = _jsonl
    row = 0
    try:
        with gzip.open(file) if zipped else file.open("rb") as stream:
            # The csv module itself ends rows. In other formats only a line feed does: a key may hold a carriage return.
            text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="" if form == "csv" else "\n")
            for row, value in readers[form](text):
                yield row, value
    except UnicodeDecodeError as error:
        raise RowError(f"it is not UTF-8 after this row: {error.reason}; save the list as UTF-8", row) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RowError(f"it cannot be decompressed after this row: {error}; write the list again", row) from error


def csv_rows(file: Path, columns: Sequence[str] | None, zipped: bool) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with these columns; if ``columns`` is None, the first row names them.

    A column without a name, such as the index that pandas writes, is ``_c0``, ``_c1`` … by its position, as in Spark.
    """
    for row, cells in text_rows(file, "csv", zipped):
        if columns is None:
            columns = [name or f"_c{index}" for index, name in enumerate(cells)]
            if len({*columns}) < len(columns):
                raise RowError(f"each column needs a name of its own: {', '.join(columns)[:400]}", row)
        elif len(cells) != len(columns):
            raise RowError(f"it has {len(cells)} columns, not {len(columns)} ({', '.join(columns)[:400]})", row)
        else:
            yield row, dict(zip(columns, cells, strict=True))


def _lines(text: TextIO) -> Iterator[Row]:
    for row, line in enumerate(text, start=1):
        if value := line.removesuffix("\n").removesuffix("\r"):
            yield row, value


def _cells(text: TextIO) -> Iterator[Row]:
    reader = csv.reader(text, strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise RowError(f"it is not CSV: {error}", reader.line_num) from error


def _jsonl(text: TextIO) -> Iterator[Row]:
    for row, line in enumerate(text, start=1):
        if line.strip():
            yield row, _json_value(line, row)


def _json(text: TextIO) -> Iterator[Row]:
    content = text.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise RowError(
            f"the document has more than {MAX_JSON_BYTES >> 20} MiB and would be held in memory as a whole; "
            "write it as JSON Lines"
        )
    document = _json_value(content, 0)
    if not isinstance(document, list):
        raise RowError("the document is not an array: write an array of addresses or objects, or JSON Lines")
    yield from enumerate(document, start=1)


def _json_value(text: str, row: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowError(f"it is not JSON: {error}", row) from error


# --- Parquet and ORC ---


def table_rows(
    file: Path, form: str, after_row: int = 0, *, all_columns: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a file in Parquet or ORC; batches that end at or before ``after_row`` are left out.

    They have the columns that describe objects, or ``all_columns``. RowError if the file is not in that format.
    """
    try:
        import pyarrow
        from pyarrow.dataset import dataset
    except ModuleNotFoundError as error:
        raise PlanError(
            f"a list in {form} needs pyarrow, which is not installed: pip install pyarrow, "
            "or give the list as CSV or JSON Lines"
        ) from error
    row = 0
    try:
        table = dataset(file, format=form)
        known_columns = [name for name in table.schema.names if all_columns or plain_name(name) in KNOWN_NAMES]
        # If none is known, all are read, so that the error can name them.
        columns = known_columns or table.schema.names
        # One batch at a time and in order: by default pyarrow reads ahead in threads, and has many in memory.
        for batch in table.to_batches(columns=columns, batch_size=BATCH_ROWS, batch_readahead=0, use_threads=False):
            if row + batch.num_rows > after_row:
                yield from enumerate(batch.to_pylist(), start=row + 1)
            row += batch.num_rows
    except OverflowError as error:
        raise RowError(f"a date or time in it is beyond the year 9999: {error}; leave that column out", row) from error
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise RowError(f"it cannot be read as {form}: {str(error).splitlines()[0]}", row) from error


KNOWN_NAMES = frozenset(
    {
        *("uri", "bucket", "key", "versionid", "islatest", "isdeletemarker", "size", "sizebytes", "etag"),
        *("lastmodified", "lastmodifieddate", "storageclass", "intelligenttieringaccesstier"),
    }
)
MAX_KEY_BYTES = 1024
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
TIERS = frozenset({"ARCHIVE", "ARCHIVE_ACCESS", "DEEP_ARCHIVE", "DEEP_ARCHIVE_ACCESS"})


class RowError(SparkletError):
    """A row is wrong; ``row`` is its number from 1, as the list's format counts; 0 if not known."""

    def __init__(self, problem: str, row: int = 0) -> None:
        super().__init__(problem)
        self.row = row


@dataclass(frozen=True, slots=True)
class Entry:
    """An object as a list describes it; None where the list does not say."""

    uri: str
    version_id: str = ""
    size_bytes: int | None = None
    etag: str | None = None
    modified_s: float | None = None
    archived: bool = False  # at the time of the list; it may have been restored since
    deleted: bool = False
    latest: bool | None = None
    partition: tuple[str, ...] = ()  # for a table of the catalog: the values of the partition's columns


def entry_of(value: object) -> Entry:
    """The object that a row names; RowError if a value is wrong."""
    if isinstance(value, str):
        return Entry(address_of(value))
    if not isinstance(value, Mapping):
        raise RowError(f"{_short_text(value)} is neither an address nor a row of columns; write s3://bucket/key")
    row = {plain_name(str(name)): cell for name, cell in value.items()}
    tier = _text(row, "intelligenttieringaccesstier")
    return Entry(
        uri=_address(row),
        version_id=_text(row, "versionid"),
        size_bytes=_size(row.get("size", row.get("sizebytes"))),
        etag=_text(row, "etag").strip('"') or None,
        modified_s=_time(row.get("lastmodifieddate", row.get("lastmodified"))),
        archived=_text(row, "storageclass") in ARCHIVES or tier in TIERS,
        deleted=_flag(row.get("isdeletemarker")) or False,
        latest=_flag(row.get("islatest")),
    )


@lru_cache(maxsize=256)
def plain_name(name: str) -> str:
    """A column's name in small letters and without punctuation: LastModified and last_modified are the same."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def address_of(text: str) -> str:
    """An address with or without its scheme as ``s3://bucket/key``; the key is not decoded."""
    scheme, separator, rest = text.partition("://")
    if separator and scheme in ("s3", "s3a", "s3n"):
        text = rest
    # A key may contain :// itself, so only what could be a scheme is refused.
    elif separator and BUCKET.fullmatch(scheme):
        raise RowError(f"{_short_text(text)} is not an address in S3; write s3://bucket/key")
    bucket, _, key = text.partition("/")
    return _joined_address(bucket, key, text)


def _joined_address(bucket: str, key: str, text: object) -> str:
    if not BUCKET.fullmatch(bucket) or not key:
        raise RowError(f"{_short_text(text)} does not name an object; write s3://bucket/key, or bucket/key")
    if len(key.encode(errors="replace")) > MAX_KEY_BYTES:
        raise RowError(f"{_short_text(text)} has a key of more than {MAX_KEY_BYTES} bytes, which S3 cannot hold")
    return f"{SCHEME}{bucket}/{key}"


def _address(row: Mapping[str, object]) -> str:
    if "uri" in row:
        return address_of(_text(row, "uri"))
    if "bucket" in row and "key" in row:
        bucket, key = _text(row, "bucket"), _text(row, "key")
        return _joined_address(bucket, key, f"{bucket}/{key}")
    raise RowError(
        f"there is no column uri, nor bucket and key, only {', '.join(row)[:400] or 'nothing'}; rename the columns"
    )


def _text(row: Mapping[str, object], name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowError(f"{name} is {_short_text(value)}, which is not a text")
    return value


def _size(value: object) -> int | None:
    if value is None or value == "":
        return None
    try:
        # In Python true is also an int, and would be a size of 1.
        size = int(value) if isinstance(value, str | int) and not isinstance(value, bool) else -1
    except ValueError:
        size = -1
    if size < 0:
        raise RowError(f"size is {_short_text(value)}, which is not a number of bytes")
    return size


def _time(value: object) -> float | None:
    if value is None or value == "":
        return None
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, datetime):
            return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        pass
    raise RowError(f"the time is {_short_text(value)}; write it as 2013-01-31T12:00:00Z")


def _flag(value: object) -> bool | None:
    if value is None or value == "":
        return None
    if str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    raise RowError(f"{_short_text(value)} is neither true nor false")


def _short_text(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
