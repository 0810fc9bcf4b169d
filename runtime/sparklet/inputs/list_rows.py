"""The rows of a list: lines, CSV, JSON, JSON Lines, Parquet and ORC; one row at a time."""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from sparklet.errors import PlanError
from sparklet.inputs.list_entries import ADDRESS_NAMES, KNOWN_NAMES, RowError, plain

MAX_JSON_BYTES = 64 * 1024 * 1024  # a document is held in memory as a whole
BATCH_ROWS = 8192  # of a table
_STEP = re.compile(r"\.?(?P<name>[^.\[\]]+)|\[(?P<index>\*|\d+)\]")

ITEMS = "jsonl of items"
Row = tuple[int, Any]  # number, counted from 1, and the row: an address or a mapping of columns


def text_rows(file: Path, form: str, path: str, zipped: bool) -> Iterator[Row]:
    """The rows of a list in one of the text formats; RowError if it is not in that format."""
    readers: dict[str, Callable[[TextIO, str], Iterator[Row]]] = {"lines": _lines, "csv": _csv, "json": _json}
    readers |= {"jsonl": _jsonl, ITEMS: partial(_jsonl, whole=True)}
    row = 0
    try:
        with gzip.open(file) if zipped else file.open("rb") as stream:
            text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="" if form == "csv" else "\n")
            for row, value in readers[form](text, path):
                yield row, value
    except UnicodeDecodeError as error:
        raise RowError(f"it is not UTF-8 after this row: {error.reason}; save the list as UTF-8", row) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RowError(f"it cannot be decompressed after this row: {error}; write the list again", row) from error


def csv_rows(file: Path, columns: Sequence[str] | None, zipped: bool) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with these columns; None: its first row names them.

    A column without a name, such as the index that pandas writes, is ``_c0``, ``_c1`` … by its place, as in Spark.
    """
    for row, cells in text_rows(file, "csv", "*", zipped):
        if columns is None:
            columns = [name or f"_c{place}" for place, name in enumerate(cells)]
            if len({*columns}) < len(columns):
                raise RowError(f"each column needs a name of its own: {', '.join(columns)[:400]}", row)
        elif len(cells) != len(columns):
            raise RowError(f"it has {len(cells)} columns, not {len(columns)} ({', '.join(columns)})", row)
        else:
            yield row, dict(zip(columns, cells, strict=True))


def _lines(text: TextIO, _: str) -> Iterator[Row]:
    for row, line in enumerate(text, start=1):
        if value := line.removesuffix("\n").removesuffix("\r"):
            yield row, value


def _csv(text: TextIO, path: str) -> Iterator[Row]:
    """Rows as mappings; with the path ``*``, for ``csv_rows``, as lists of cells."""
    reader = csv.reader(text, strict=True)
    names: list[str] | None = None
    try:
        for cells in reader:
            if not cells:
                continue
            if path == "*":
                yield reader.line_num, cells
            elif names is None and any(
                plain(cell) in KNOWN_NAMES or (cell == path and not path.isdecimal()) for cell in cells
            ):  # a header: a column is known, or is the one with the address
                names = _numbered(cells, path)
            else:
                names = names or _names(cells, path)
                if len(cells) != len(names):
                    raise RowError(f"it has {len(cells)} columns, the first row has {len(names)}", reader.line_num)
                yield reader.line_num, dict(zip(names, cells, strict=True))
    except csv.Error as error:
        raise RowError(f"it is no CSV: {error}", reader.line_num) from error


def _numbered(names: list[str], path: str) -> list[str]:
    """Names with that of column ``path``, if it is a number, replaced by the number."""
    if not path.isdecimal() or path in names:
        return names
    if not 1 <= int(path) <= len(names):
        raise RowError(f"there is no column {path}: the first row has {len(names)}", 1)
    return [*names[: int(path) - 1], path, *names[int(path) :]]


def _names(cells: Sequence[str], path: str) -> list[str]:
    """Names for the columns of a list without a header; ``path`` is then a number, from 1."""
    names = [f"column {number}" for number, _ in enumerate(cells, start=1)]
    if path and not path.isdecimal():
        raise RowError(f"no column is called {path!r}: the first row is {', '.join(cells)[:400]}; give its number", 1)
    if path:
        return _numbered(names, path)
    if len(cells) == 1 or "://" in cells[0]:
        names[0] = ADDRESS_NAMES[0]
    else:
        names[:3] = ["bucket", "key", "version_id"][: len(cells)]
    return names


def _jsonl(text: TextIO, path: str, *, whole: bool = False) -> Iterator[Row]:
    """``whole``: without a path a line is one row, also one that is an array."""
    steps = _steps(path)
    for row, line in enumerate(text, start=1):
        if line.strip():
            value = _decoded(line, row)
            for each in (value,) if whole and not steps else _within(value, steps, "", row):
                yield row, each


def _json(text: TextIO, path: str) -> Iterator[Row]:
    content = text.read(MAX_JSON_BYTES + 1)
    if len(content) > MAX_JSON_BYTES:
        raise RowError(
            f"the document has more than {MAX_JSON_BYTES >> 20} MiB and would be held in memory as a whole; "
            "write it as JSON Lines"
        )
    document = _decoded(content, 0)
    if not path and not isinstance(document, list):
        raise RowError(
            "the document is no array; give the path of the addresses, as in --list-path 'data.files[*].uri'"
        )
    yield from enumerate(_within(document, _steps(path), "", 0), start=1)


def _decoded(text: str, row: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RowError(f"it is no JSON: {error}", row) from error


def _steps(path: str) -> list[str | int]:
    """``data.files[*].uri`` as its steps; ``*`` is every element."""
    steps: list[str | int] = []
    end = len("$") if path.startswith("$") else 0
    while end < len(path):
        step = _STEP.match(path, end)
        if step is None:
            raise PlanError(f"the path {path!r} is wrong from {path[end:]!r} on; write it as in data.files[*].uri")
        index = step["index"]
        steps.append(step["name"] if index is None else -1 if index == "*" else int(index))
        end = step.end()
    return steps


def _within(value: Any, steps: Sequence[str | int], walked: str, row: int) -> Iterator[Any]:
    """The value at the end of a path; of an array, each element."""
    if not steps:
        yield from value if isinstance(value, list) else (value,)
        return
    step, rest = steps[0], steps[1:]
    if isinstance(step, int):
        if not isinstance(value, list) or step >= len(value):
            raise RowError(f"{walked or 'it'} is no array of that length", row)
        for each in value if step < 0 else (value[step],):
            yield from _within(each, rest, f"{walked}[]", row)
    elif isinstance(value, dict) and step in value:
        yield from _within(value[step], rest, f"{walked}.{step}".lstrip("."), row)
    else:
        names = f"has no {step!r}, only {', '.join(value) or 'nothing'}" if isinstance(value, dict) else "is no object"
        raise RowError(f"{walked or 'it'} {names}; write the path as in data.files[*].uri", row)


# --- Parquet and ORC ---


def table_rows(
    file: Path, form: str, address: str | None = "", after_row: int = 0
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of Parquet or ORC, without batches up to ``after_row``: known columns and ``address`` (None: all).

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
        wanted = {*KNOWN_NAMES, plain(address or "")}
        described = [name for name in table.schema.names if address is None or plain(name) in wanted]
        columns = described or table.schema.names  # so that the error can name the columns
        for batch in table.to_batches(columns=columns, batch_size=BATCH_ROWS, batch_readahead=0, use_threads=False):
            if row + batch.num_rows > after_row:
                yield from enumerate(batch.to_pylist(), start=row + 1)
            row += batch.num_rows
    except OverflowError as error:
        raise RowError(f"a date or time in it is beyond the year 9999: {error}; leave that column out", row) from error
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise RowError(f"it cannot be read as {form}: {str(error).splitlines()[0]}", row) from error
