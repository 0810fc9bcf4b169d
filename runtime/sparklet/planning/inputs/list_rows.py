"""The rows of a list: lines, CSV, JSON, JSON Lines, Parquet and ORC; one row at a time."""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from sparklet.errors import PlanError
from sparklet.planning.inputs.list_entries import KNOWN_NAMES, RowError, plain

MAX_JSON_BYTES = 64 * 1024 * 1024  # a document is held in memory as a whole
BATCH_ROWS = 8192  # of a table

Row = tuple[int, Any]  # number, counted from 1, and the row: an address, a mapping of columns, or any value of JSON


def text_rows(file: Path, form: str, zipped: bool) -> Iterator[Row]:
    """The rows of a list in one of the text formats, those of CSV as cells; RowError if it is not in that format."""
    readers: dict[str, Callable[[TextIO], Iterator[Row]]] = {"lines": _lines, "csv": _cells, "json": _json}
    readers["jsonl"] = _jsonl
    row = 0
    try:
        with gzip.open(file) if zipped else file.open("rb") as stream:
            # The csv module ends rows itself. Else only a line feed does, since a key may hold a carriage return.
            text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="" if form == "csv" else "\n")
            for row, value in readers[form](text):
                yield row, value
    except UnicodeDecodeError as error:
        raise RowError(f"it is not UTF-8 after this row: {error.reason}; save the list as UTF-8", row) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RowError(f"it cannot be decompressed after this row: {error}; write the list again", row) from error


def csv_rows(file: Path, columns: Sequence[str] | None, zipped: bool) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with these columns; None: its first row names them.

    A column without a name, such as the index that pandas writes, is ``_c0``, ``_c1`` … by its place, as in Spark.
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
        raise RowError(f"it is no CSV: {error}", reader.line_num) from error


def _jsonl(text: TextIO) -> Iterator[Row]:
    for row, line in enumerate(text, start=1):
        if line.strip():
            yield row, _decoded(line, row)


def _json(text: TextIO) -> Iterator[Row]:
    content = text.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise RowError(
            f"the document has more than {MAX_JSON_BYTES >> 20} MiB and would be held in memory as a whole; "
            "write it as JSON Lines"
        )
    document = _decoded(content, 0)
    if not isinstance(document, list):
        raise RowError("the document is no array: write an array of addresses or objects, or JSON Lines")
    yield from enumerate(document, start=1)


def _decoded(text: str, row: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowError(f"it is no JSON: {error}", row) from error


# --- Parquet and ORC ---


def table_rows(
    file: Path, form: str, after_row: int = 0, *, all_columns: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of Parquet or ORC, without batches up to ``after_row``: the columns that describe objects, or all.

    RowError if it is not in that format.
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
        described = [name for name in table.schema.names if all_columns or plain(name) in KNOWN_NAMES]
        columns = described or table.schema.names  # so that the error can name the columns
        # One batch at a time and in order: by itself pyarrow reads ahead in threads, and holds many in memory.
        for batch in table.to_batches(columns=columns, batch_size=BATCH_ROWS, batch_readahead=0, use_threads=False):
            if row + batch.num_rows > after_row:
                yield from enumerate(batch.to_pylist(), start=row + 1)
            row += batch.num_rows
    except OverflowError as error:
        raise RowError(f"a date or time in it is beyond the year 9999: {error}; leave that column out", row) from error
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise RowError(f"it cannot be read as {form}: {str(error).splitlines()[0]}", row) from error
