"""A small original of the flights: three days of it, for tests that need no whole year."""

from pathlib import Path

from spark_scripts.demo.flights_data import FlightsData, some_days

DAYS = ("2013-01-01", "2013-02-08", "2013-12-31")  # the second saw a snowstorm: 472 of 930 flights were cancelled
ROWS = {"2013-01-01": 842, "2013-02-08": 930, "2013-12-31": 776}


def three_days(year: FlightsData, folder: Path) -> FlightsData:
    """Three of the year's days."""
    return some_days(year, folder, [f"{day}.csv" for day in DAYS])
