"""Rows of a list as items: values that are a shard's input themselves, as a script finds them in ``job.items``."""

from collections.abc import Iterator
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

from sparklet.entries import RowError
from sparklet.fanout.inventory.rows import Row, csv_rows
from sparklet.fanout.inventory.tables import table_rows
from sparklet.model import InputObject

MAX_ITEM_BYTES = 64 * 1024  # as JSON
MAX_ITEM_DEPTH = 32  # arrays and objects within each other


def item_of(value: Any) -> InputObject:
    """A row's value as an item.

    Dates, times and decimals of Parquet become texts.

    Raises
    ------
    RowError
        If it is not JSON in UTF-8, nested too deeply or too large.
    """
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


def item_rows(file: Path, form: str, column: str, after_row: int, *, zipped: bool) -> Iterator[Row]:
    """The rows of a CSV or Parquet list, each a mapping of its columns; or the values of one column."""
    rows = csv_rows(file, None, zipped) if form == "csv" else table_rows(file, form, None, after_row)
    for number, row in rows:
        if column and column not in row:
            raise RowError(f"there is no column {column!r}, only {', '.join(row)[:400]}; name another with --list-path")
        yield number, row[column] if column else row


def _json_value(value: Any, levels: int) -> Any:
    if isinstance(value, str | int | float | None):
        return value
    if not levels:
        raise RowError(f"the item is nested deeper than {MAX_ITEM_DEPTH} arrays and objects")
    if isinstance(value, list | tuple):
        return [_json_value(each, levels - 1) for each in value]
    if isinstance(value, dict):
        return {name: _json_value(each, levels - 1) for name, each in value.items()}
    if isinstance(value, date | datetime | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    raise RowError(f"the item holds a {type(value).__name__}, which JSON cannot; leave that column out")
