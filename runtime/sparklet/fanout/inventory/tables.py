"""Lists as Parquet or ORC, a batch at a time; pyarrow is an extra and imported here only."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sparklet.entries import KNOWN_NAMES, RowError, plain
from sparklet.errors import PlanError

BATCH_ROWS = 8192


def table_rows(
    file: Path, form: str, address: str | None = "", after_row: int = 0
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a Parquet or ORC file behind ``after_row``, with only the columns that say something of an object.

    ``address`` names one more that says where it is; None: all columns.

    Raises
    ------
    PlanError
        If pyarrow is not installed.
    RowError
        If the file is not what it should be.
    """
    try:
        import pyarrow
    except ModuleNotFoundError as error:
        raise PlanError(
            f"a list in {form} needs pyarrow, which is not installed: pip install pyarrow, "
            "or give the list as CSV or JSON Lines"
        ) from error
    row = after_row
    try:
        for row, batch in (_parquet if form == "parquet" else _orc)(file, address, after_row):
            for number, values in enumerate(batch.to_pylist(), start=row + 1):
                if number > after_row:
                    yield number, values
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise RowError(f"it cannot be read as {form}: {str(error).splitlines()[0]}", row) from error


def _parquet(file: Path, address: str | None, after_row: int) -> Iterator[tuple[int, Any]]:
    """Batches, each with the number of rows before it; row groups that lie before ``after_row`` are not read."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(file) as table:
        columns = _columns(table.schema_arrow.names, address)
        row = 0
        for group in range(table.num_row_groups):
            rows = table.metadata.row_group(group).num_rows
            if row + rows > after_row:
                read = row
                for batch in table.iter_batches(BATCH_ROWS, [group], columns):
                    yield read, batch
                    read += batch.num_rows
            row += rows


def _orc(file: Path, address: str | None, after_row: int) -> Iterator[tuple[int, Any]]:
    """Batches in the same way, stripe by stripe."""
    from pyarrow.orc import ORCFile

    table = ORCFile(str(file))
    columns = _columns(table.schema.names, address)
    row = 0
    for number in range(table.nstripes):
        stripe = table.read_stripe(number, columns)
        for start in range(0, stripe.num_rows, BATCH_ROWS):
            batch = stripe.slice(start, BATCH_ROWS)
            if row + batch.num_rows > after_row:
                yield row, batch
            row += batch.num_rows


def _columns(names: list[str], address: str | None) -> list[str]:
    if address is None:
        return names
    wanted = [name for name in names if plain(name) in {*KNOWN_NAMES, plain(address)}]
    return wanted or names  # so that the error can say which there are
