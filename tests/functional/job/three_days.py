"""A small original of the flights: three days of it, for tests that need no whole year."""

import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

from spark_scripts.demo.flights_data import FlightsData, make_flights

DAYS = ("2013-01-01", "2013-02-08", "2013-12-31")  # the second saw a snowstorm: 472 of 930 flights were cancelled
ROWS = {"2013-01-01": 842, "2013-02-08": 930, "2013-12-31": 776}


def three_days(year: FlightsData, folder: Path) -> FlightsData:
    """Three of the year's days."""
    return some_days(year, folder, DAYS)


def some_days(year: FlightsData, folder: Path, names: Sequence[str]) -> FlightsData:
    """Day files in ``folder / "data"``, made from an original in ``folder / "original"`` that has no other days."""
    original = folder / "original"
    original.mkdir()
    days = [(year.flights / f"{day}.csv").read_bytes().splitlines(keepends=True) for day in names]
    with zipfile.ZipFile(original / "flights.csv.zip", "w") as archive:
        archive.writestr("flights.csv", b"".join([days[0][0], *(line for day in days for line in day[1:])]))
    shutil.copy(year.airlines, original)
    shutil.copy(year.planes, original)
    return make_flights(folder / "data", original=original)
